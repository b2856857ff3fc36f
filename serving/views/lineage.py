"""Artifacts of a store, and what each was made from."""

from __future__ import annotations

from typing import Any

from headwater.cluster.storage.lineage import lineage_json, summary_json
from headwater.cluster.storage.store import Store


def all_artifacts(store: Store) -> list[dict[str, Any]]:
    """A summary of every finished artifact, the latest first."""
    return [summary_json(manifest) for manifest in reversed(store.manifests())]


def one_artifact(store: Store, stage: str, key: str) -> dict[str, Any] | None:
    """An artifact's manifest, the tree of what it was made from (`lineage`) and which artifacts were made
    from it (`used_by`); None if it is not finished or not there."""
    manifest = store.artifact(stage, key).manifest()
    if manifest is None:
        return None
    used_by = [
        {"stage": other.stage, "key": other.key}
        for other in store.manifests()
        if other.inputs.get(stage) == key
    ]
    return manifest.model_dump() | {
        "bytes": summary_json(manifest)["bytes"],
        "lineage": lineage_json(store, manifest),
        "used_by": used_by,
    }
