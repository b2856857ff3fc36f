"""Which model of a recipe is served: the newest promotion in the store's `promoted/NAME.json`.

The file holds every promotion of the recipe, oldest first, and is only ever appended to. A roll-back is a
promotion, too: of the model that was served before.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import MANIFEST, Artifact, Manifest
from headwater.cluster.storage.change import change_json
from headwater.cluster.storage.store import Store
from headwater.llm.stages.models import MODELS

FOLDER = "promoted"

Kind = Literal["run", "promote", "improve", "rollback"]
"""What promoted a model: the end of a run, a person, or the gate of `headwater improve`."""


class Promotion(BaseModel):
    """One promotion. Never changed once it is written."""

    number: int
    """From 1."""
    kind: Kind
    model: str
    """`STAGE/KEY` of the model."""
    index: str = ""
    """`index/KEY` of its passages; empty without an index."""
    answer: Literal["quote", "write"]
    """How the model answers from passages (`serve.answer`)."""
    time: str
    """ISO 8601, UTC."""
    by: str
    """`USER@HOST`."""
    why: str = ""
    restores: int | None = None
    """Of a roll-back: the number of the promotion, itself none, whose model is served again."""
    lineage: dict[str, str] = {}
    """Stage → key of everything that the model was made from."""
    rankings: dict[str, Any] = {}
    """People's rankings that it has learnt from: their number and the checksum of their names."""
    gate: dict[str, Any] = {}
    """What `headwater improve` measured before it promoted the model."""

    def told(self) -> str:
        """The promotion in one line, for people."""
        again = f" (number {self.restores} again)" if self.restores else ""
        why = f": {self.why}" if self.why else ""
        return f"{self.model}, promotion {self.number}{again} of {self.time} by {self.by}{why}"


def promotions(store: Store, recipe: str) -> list[Promotion]:
    """All promotions of a recipe, oldest first. Raises HeadwaterError for a file that is none of these."""
    folder = store.folder(FOLDER)
    name = f"{recipe}.json"
    return _parsed(folder.read_json(name), folder.path(name)) if folder.exists(name) else []


def current(store: Store, recipe: str) -> Promotion | None:
    """The promotion that is served, or None if there was none."""
    return next(reversed(promotions(store, recipe)), None)


def promote(
    store: Store,
    recipe: str,
    model: Artifact,
    index: Artifact | None,
    answer: Literal["quote", "write"],
    *,
    kind: Kind,
    why: str = "",
    gate: dict[str, Any] | None = None,
    rankings: dict[str, Any] | None = None,
    after: int | None = None,
) -> Promotion:
    """Append a promotion.

    `rankings`: default is what the manifests of the model's lineage say. `after`: number of the promotion
    that the caller has compared the model with (0: none). Raises HeadwaterError if another one is the newest
    by now, if the model is not finished, or if it is no language model.
    """
    if model.stage not in MODELS:
        raise HeadwaterError(
            f"stage {model.stage} makes no language model", where=model.location, fix=f"{', '.join(MODELS)}"
        )
    for artifact in filter(None, (model, index)):
        _check_there(artifact)
    made_from = list(_lineage(store, model))
    learnt: dict[str, Any] = {}
    for manifest in made_from:
        learnt |= {name: value for name, value in manifest.fingerprint.items() if name.startswith("rankings")}
    fields = {
        "kind": kind,
        "model": name_of(model),
        "index": name_of(index) if index else "",
        "answer": answer,
        "why": why,
        "lineage": {manifest.stage: manifest.key for manifest in made_from},
        "rankings": learnt if rankings is None else rankings,
        "gate": gate or {},
    }
    return _append(store, recipe, lambda earlier: fields, after)


def roll_back(store: Store, recipe: str, to: int | None = None, why: str = "") -> Promotion:
    """Serve an earlier promotion's model again: number `to`, by default the one before the current model.

    Raises HeadwaterError if there is none, or if its model is no longer in the store.
    """

    def restored(earlier: list[Promotion]) -> dict[str, Any]:
        target = _before(earlier, recipe) if to is None else _numbered(earlier, to, recipe)
        artifacts_of(store, target)
        kept = target.model_dump(include={"model", "index", "answer", "lineage", "rankings", "gate"})
        return kept | {"kind": "rollback", "restores": target.restores or target.number, "why": why}

    return _append(store, recipe, restored)


def artifacts_of(store: Store, promotion: Promotion) -> tuple[Artifact, Artifact | None]:
    """The model and the index of a promotion. Raises HeadwaterError if one is no longer there."""
    model, index = (
        store.artifact(*name.split("/", 1)) if name else None for name in (promotion.model, promotion.index)
    )
    assert model is not None
    for artifact in filter(None, (model, index)):
        _check_there(artifact)
    return model, index


def _append(store: Store, recipe: str, make: Any, after: int | None = None) -> Promotion:
    made: list[Promotion] = []

    def appended(content: Any) -> Any:
        earlier = _parsed(content, f"{FOLDER}/{recipe}.json") if content else []
        if after is not None and after != len(earlier):
            raise HeadwaterError(
                f"{earlier[-1].told() if earlier else 'nothing'} is served by now, which this model was not "
                "compared with",
                where=recipe,
                fix="run the command again",
            )
        fields = make(earlier)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made.append(Promotion(number=len(earlier) + 1, time=now, by=_who(), **fields))
        return {"recipe": recipe, "promotions": [each.model_dump() for each in [*earlier, *made]]}

    change_json(store.folder(FOLDER), f"{recipe}.json", appended)
    return made[0]


def _parsed(content: Any, where: str) -> list[Promotion]:
    try:
        return [Promotion.model_validate(each) for each in content["promotions"]]
    except (ValidationError, KeyError, TypeError) as error:
        raise HeadwaterError(
            "this is no record of promotions", where=where, fix="restore it from a copy"
        ) from error


def _before(earlier: list[Promotion], recipe: str) -> Promotion:
    """What was promoted before the model of today: a roll-back of a roll-back goes one further back."""
    at = ((earlier[-1].restores or earlier[-1].number) if earlier else 0) - 1
    if at < 1:
        raise HeadwaterError(
            "no earlier model was promoted", where=recipe, fix="list them: headwater promoted RECIPE"
        )
    return earlier[at - 1]


def _numbered(earlier: list[Promotion], number: int, recipe: str) -> Promotion:
    if not 1 <= number <= len(earlier):
        raise HeadwaterError(
            f"there is no promotion {number}", where=recipe, fix="list them: headwater promoted RECIPE"
        )
    return earlier[number - 1]


def _check_there(artifact: Artifact) -> None:
    if not artifact.exists(MANIFEST):
        raise HeadwaterError(
            f"{name_of(artifact)} is not in the store, or not finished",
            where=artifact.location,
            fix="promote another model, or roll back",
        )


def _lineage(store: Store, model: Artifact) -> Iterator[Manifest]:
    """Manifests of the model and all that it was made from, each once."""
    waiting, seen = [(model.stage, model.key)], set()
    while waiting:
        stage, key = waiting.pop(0)
        if (stage, key) in seen:
            continue
        seen.add((stage, key))
        manifest = store.artifact(stage, key).manifest()
        if manifest is not None:
            yield manifest
            waiting += manifest.inputs.items()


def name_of(artifact: Artifact) -> str:
    """`STAGE/KEY`."""
    return f"{artifact.stage}/{artifact.key}"


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
