"""The models that a measuring command is given: folders, and recipes with what they made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.artifact import Artifact
    from headwater.recipe import Recipe

ModelsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE|MODEL…",
        help="A recipe, for its first and newest model, and model folders or .gguf files.",
    ),
]


def copied_model(model: str, session: Session) -> Artifact:
    """A model as an artifact of the store, which it is copied into once."""
    from headwater.cluster.runtime.stage import execute
    from headwater.llm.stages.base import Base, BaseConfig

    base, _ = execute(Base(BaseConfig(model=model)), {}, session)
    return base


def recipe_among(names: Sequence[str], overrides: Sequence[str] | None) -> Recipe | None:
    """The recipe that the names begin with, if they do. Raises HeadwaterError for another one after it."""
    from headwater.cluster.errors import HeadwaterError
    from headwater.options import open_recipe
    from headwater.recipe import is_recipe

    found = [name for name in names if is_recipe(name)]
    if found and (len(found) > 1 or found[0] != names[0]):
        raise HeadwaterError(
            "models of one recipe are compared with other models",
            where=found[-1],
            fix="give the recipe first, then model folders, such as STORE/sft/KEY/model",
        )
    return open_recipe(Path(found[0]), list(overrides or [])) if found else None


def models_of(names: Sequence[str], recipe: Recipe | None, session: Session) -> dict[str, Artifact]:
    """The models to measure by label: the first and the newest that the recipe has made, then the others."""
    from headwater import pipeline
    from headwater.llm.stages.evaluations.benchmarks import START, candidates

    found: dict[str, Artifact] = {}
    if recipe is not None:
        last = pipeline.newest_finished(recipe, session)
        first = START.choose([stage.name for stage in pipeline.stages(recipe)])
        inputs = pipeline.finished(recipe, session, first) if first else {}
        start = {first: inputs[first]} if first else {}
        found |= candidates({last.stage: last} | start)
    for name in names if recipe is None else names[1:]:
        short = name.rstrip("/").removesuffix("/model").rpartition("/")[2]
        found[name if short in found else short] = copied_model(name, session)
    return found
