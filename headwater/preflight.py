"""Checks before the first stage: named files exist, and the cluster can hold every stage."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import (
    Actors,
    Need,
    amount,
    first_fit,
    needs_of,
    nodes,
    refuse_too_large,
    total,
)
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Stage, locate
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem
from headwater.llm.benchmarks.records import wheels
from headwater.llm.stages.base import Base
from headwater.llm.stages.evaluations.benchmarks import Benchmarks
from headwater.llm.stages.models import TALKING, refuse_untemplated
from headwater.llm.training.config import TrainConfig
from headwater.llm.training.telemetry.records import check_packages
from headwater.recipe import Recipe


def check(recipe: Recipe, chain: Sequence[Stage[Any]], session: Session, *, redo: str | None = None) -> None:
    """Check the stages of a run; `redo` names the first of those that run although they have finished.

    Raises HeadwaterError for a missing file, for what a stage's own `check` finds, for questions of
    benchmarks that cannot be downloaded, for a tracker that is not installed, and for a stage whose actors do
    not fit into the cluster together. Where nodes may join a cluster, says what the run will wait for.
    """
    _check_files(recipe, chain)
    for stage in chain:
        stage.check()
        stage.check_store(session.store)
        _check_template(stage, chain)
        if isinstance(stage, Benchmarks):
            wheels(session.store, stage.config.tasks)  # downloaded now, and not after hours of training
        if isinstance(stage.config, TrainConfig):
            check_packages(stage.config.track)
    _check_room(chain, session, redo)


def _check_template(base: Stage[Any], chain: Sequence[Stage[Any]]) -> None:
    """A base without a usable chat template is refused if a stage of conversations would start from it."""
    talking = next((stage.name for stage in chain if stage.name in TALKING), None)
    if isinstance(base, Base) and talking is not None:
        refuse_untemplated(base.fine_tuning(), base.config.source, talking)


def _check_files(recipe: Recipe, chain: Sequence[Stage[Any]]) -> None:
    named = [(f"{stage.name}.{key}", location) for stage in chain for key, location in stage.files()]
    serve = getattr(recipe, "serve", None)
    if serve is not None and serve.api_keys:
        named.append(("serve.api_keys", serve.api_keys))
    missing = [(key, location) for key, location in named if not _exists(location)]
    if missing:
        told = "; ".join(f"{key}: no such file {location}" for key, location in missing[:5])
        more = f"; and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise HeadwaterError(f"{told}{more}", where=recipe.name, fix="correct the paths")


def _exists(location: str) -> bool:
    """Whether there is a file or folder, or a match for a pattern. True if the storage does not answer."""
    if "://" not in location or location.startswith("file://"):
        path = str(Path(location.removeprefix("file://")).expanduser())
        return Path(path).exists() or any(True for _ in glob.iglob(path, recursive=True))  # noqa: PTH207
    fs, path = filesystem(location)
    try:
        return bool(fs.get_file_info(path).type != pafs.FileType.NotFound)
    except OSError:
        return True


def _check_room(chain: Sequence[Stage[Any]], session: Session, redo: str | None) -> None:
    settings = {stage.name: stage.config for stage in chain}
    moments = [(stage.name, actors) for stage in chain for actors in stage.resources(settings)]
    rooms, open_ended = nodes(session, gpus=any(n.gpus for _, actors in moments for n in needs_of(actors)))
    large = [(name, actors) for name, actors in moments if first_fit(needs_of(actors), rooms)[1]]
    if not large:
        return
    unfinished = set(_unfinished(chain, session, redo))
    for name, actors in large:
        if name in unfinished:
            refuse_too_large(name, actors, rooms, open_ended)
            _announce(session, name, actors, rooms)


def _unfinished(chain: Sequence[Stage[Any]], session: Session, redo: str | None) -> Iterator[str]:
    """The stages that this run will execute. Looked up only in need: it lists the inputs."""
    artifacts: dict[str, Artifact] = {}
    again = False
    for stage in chain:
        artifacts[stage.name] = locate(stage, artifacts, session)
        again = again or stage.name == redo
        if again or artifacts[stage.name].manifest() is None:
            yield stage.name


def _announce(session: Session, stage: str, actors: list[Actors], rooms: list[Need]) -> None:
    wanted, there = total(needs_of(actors)), total(rooms)
    session.say(
        f"{stage} will need {amount(wanted)} at once; the cluster has {amount(there)} now and has to grow"
    )
