"""System prompts on offer, with what `headwater bias` and `headwater probe` measured of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from headwater.cluster.storage.artifact import Manifest
from headwater.cluster.storage.store import Store
from headwater.llm.examples.system_prompts import SYSTEM_PROMPTS

BIAS_MEASURES = {
    "unknown": ("says that it is not known, of questions that nobody can answer", "share"),
    "stereotyped": ("stereotyped less opposite answers, 0 is none", "share"),
}
PROBE_MEASURES = {
    "hallucinated": ("hallucinated, of held-out questions", "share"),
    "refused": ("says that it does not know, of held-out questions", "share"),
}


def presets(store: Store | None, model_key: str) -> list[dict[str, Any]]:
    """Name, text and measured effects of each system prompt.

    An effect has `what`, `without` and `with` (value, low, high: 95 % interval), and the model it was
    measured of: the served one (`STAGE/KEY`) where the store has that, else the latest measured.
    """
    manifests = list(reversed(store.manifests())) if store else []
    bias = [manifest for manifest in manifests if manifest.stage == "bias"]
    probes = [manifest for manifest in manifests if manifest.stage == "probe"]
    return [
        {
            "name": name,
            "text": text,
            "effects": [*_of_bias(bias, name, text, model_key), *_of_probes(probes, text, model_key)],
        }
        for name, text in SYSTEM_PROMPTS.items()
    ]


def _of_bias(found: Sequence[Manifest], name: str, text: str, model_key: str) -> list[dict[str, Any]]:
    measured = [
        manifest
        for manifest in found
        if name in manifest.metrics["systems"] and manifest.config["system"].get(name) == text
    ]
    manifest = _best(measured, model_key)
    if manifest is None:
        return []
    systems = manifest.metrics["systems"]
    return [
        _effect(
            what, kind, manifest, *(systems[each]["questions"]["all"][measure] for each in ("none", name))
        )
        for measure, (what, kind) in BIAS_MEASURES.items()
    ]


def _of_probes(found: Sequence[Manifest], text: str, model_key: str) -> list[dict[str, Any]]:
    """Of two probes that differ by the system prompt alone."""
    pairs = {}
    for manifest in found:
        if manifest.config["system"] == text:
            plain = [each for each in found if _asked_alike(each, manifest) and not each.config["system"]]
            if plain:
                pairs[manifest.key] = plain[0]
    best = _best([each for each in found if each.key in pairs], model_key)
    if best is None:
        return []
    without = pairs[best.key].metrics["heldout"]
    return [
        _effect(what, kind, best, without[measure], best.metrics["heldout"][measure])
        for measure, (what, kind) in PROBE_MEASURES.items()
    ]


def _asked_alike(a: Manifest, b: Manifest) -> bool:
    def rest(manifest: Manifest) -> str:
        same = {k: v for k, v in manifest.config.items() if k not in ("system", "gpus_per_worker")}
        return json.dumps([same, manifest.inputs], sort_keys=True)

    return rest(a) == rest(b)


def _best(found: Sequence[Manifest], model_key: str) -> Manifest | None:
    """The first of the served model, else the first."""
    return next((each for each in found if _model_of(each) == model_key), next(iter(found), None))


def _model_of(manifest: Manifest) -> str:
    return next((f"{stage}/{key}" for stage, key in manifest.inputs.items() if stage != "facts"), "")


def _effect(what: str, kind: str, manifest: Manifest, without: Any, with_: Any) -> dict[str, Any]:
    return {
        "what": what,
        "kind": kind,
        "model": _model_of(manifest),
        "artifact": f"{manifest.stage}/{manifest.key}",
        "without": without,
        "with": with_,
    }
