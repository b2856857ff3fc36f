"""The stage contract: a typed config and input artifacts in, one artifact out, computed once.

The key of an artifact is a hash of everything that determines its content: the stage's name and
version, its config, the keys of its inputs and its fingerprint (what it reads from outside the
store). Equal work has an equal key and is not repeated; a changed setting reruns only the stages
that depend on it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime import waiting
from headwater.cluster.runtime.needs import Moments
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import SCRATCH, Artifact, Manifest
from headwater.cluster.storage.store import Store
from headwater.cluster.versions import commit, recorded_versions


class StageConfig(BaseModel):
    """Base class of all stage settings: typed and immutable; unknown keys, nan and infinity are rejected.

    Every number has a lower bound (`Field(ge=…)`); `tests/headwater/test_bounds.py` checks it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


NonEmpty = Annotated[str, Field(min_length=1)]
"""A name, path or pattern in a setting."""


def unkeyed(default: object) -> Callable[[object], bool]:
    """For `Field(exclude_if=…)`: a setting at its default is in no key, whatever holds its section.

    A setting added later needs this, or a place in `Stage.off_fields` if no other stage holds its section.
    """
    return lambda value: bool(value == default)


C = TypeVar("C", bound=StageConfig)


@dataclass(frozen=True)
class Input:
    """An artifact that a stage reads: that of the first of these stages that the recipe has."""

    stages: tuple[str, ...]
    required: bool = True
    what: str = ""
    """What the stage takes from it, for the error of a recipe that has none of the stages."""
    fix: str = ""
    """Other ways to give it than one of the stages' sections."""

    def choose(self, available: Collection[str]) -> str | None:
        return next((name for name in self.stages if name in available), None)


class Stage(Generic[C]):
    """One stage of the pipeline. Subclasses set the class variables and implement `run` and `resources`."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Increment it when the format or meaning of the output changes, so that old artifacts are not reused."""
    inputs: ClassVar[tuple[str | Input, ...]] = ()
    """What `run` receives: names of stages, or choices among them. Part of the key."""
    runtime_fields: ClassVar[frozenset[str]] = frozenset()
    """Settings that affect how the work is done but not its result. Excluded from the key."""
    off_fields: ClassVar[frozenset[str]] = frozenset()
    """Settings whose default has no effect. Part of the key only if changed, so that artifacts made before
    the setting existed keep their key."""

    def __init__(self, config: C) -> None:
        self.config = config

    def fingerprint(self, session: Session) -> dict[str, Any]:
        """What the output depends on in addition to config and inputs; empty for most stages."""
        return {}

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        """Write the output's files and return its metrics. Must resume from what `output` already holds."""
        raise TypeError(f"stage {self.name} does not define run()")

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        """What the stage runs at the same time, moment by moment; empty if the driver does all the work.

        `settings` has the config of every stage of the run, by name. Every stage states this: a run is
        refused before it starts if the cluster cannot hold it (`headwater/preflight.py`).
        """
        raise TypeError(f"stage {self.name} does not define resources()")

    def check(self) -> None:
        """Raise HeadwaterError if what the settings name is not usable. Called before the first stage."""

    def check_store(self, store: Store) -> None:
        """Raise HeadwaterError if the store lacks what the settings name. Called before the first stage."""

    def files(self) -> Iterable[tuple[str, str]]:
        """The files that the settings name: (key within the section, location). They must exist."""
        return ()

    def key(self, input_keys: Mapping[str, str], fingerprint: Mapping[str, Any]) -> str:
        fields = type(self.config).model_fields
        off = {n for n in self.off_fields if n in fields and getattr(self.config, n) == fields[n].default}
        material = {
            "stage": self.name,
            "version": self.version,
            "config": self.config.model_dump(mode="json", exclude=off | self.runtime_fields),
            "inputs": dict(sorted(input_keys.items())),
            "fingerprint": fingerprint,
        }
        canonical = json.dumps(material, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def needs(self) -> tuple[Input, ...]:
        """What this stage reads with its settings."""
        return tuple(each if isinstance(each, Input) else Input((each,)) for each in self.inputs)

    def input_names(self, available: Collection[str]) -> list[str]:
        """The stages that this one reads, of those in the recipe.

        Raises HeadwaterError naming the ways to give what is missing.
        """
        chosen = []
        for need in self.needs():
            name = need.choose(available)
            if name is not None:
                chosen.append(name)
            elif need.required:
                sections = " or ".join(f"`{name}`" for name in need.stages)
                raise HeadwaterError(
                    f"{self.name} needs {need.what or f'the output of {need.stages[0]}'}",
                    where=f"the recipe's sections: {', '.join(available) or 'none before it'}",
                    fix=f"add a section {sections}{f', or {need.fix}' if need.fix else ''}",
                )
        return list(dict.fromkeys(chosen))

    def own_inputs(self, artifacts: Mapping[str, Artifact]) -> dict[str, Artifact]:
        """The artifacts that this stage reads. Raises HeadwaterError as `input_names`."""
        return {name: artifacts[name] for name in self.input_names(artifacts)}

    def check_inputs(self, inputs: Mapping[str, Artifact]) -> None:
        """Raise HeadwaterError as soon as an input shows that this stage could not run.

        Called before hours of other stages, once for each input that is finished: `inputs` holds that one.
        """


def locate(stage: Stage[Any], inputs: Mapping[str, Artifact], session: Session) -> Artifact:
    """The stage's artifact, finished or not."""
    input_keys = {name: artifact.key for name, artifact in stage.own_inputs(inputs).items()}
    return session.store.artifact(stage.name, stage.key(input_keys, stage.fingerprint(session)))


def execute(
    stage: Stage[Any],
    inputs: Mapping[str, Artifact],
    session: Session,
    *,
    redo: bool = False,
    output: Artifact | None = None,
) -> tuple[Artifact, bool]:
    """Run a stage unless its artifact is already finished; `redo` deletes the artifact and reruns the stage.

    `output` overrides the artifact's location in the store; the caller makes sure that it holds nothing
    else. Returns the artifact and whether it was already finished.
    """
    own_inputs = stage.own_inputs(inputs)
    input_keys = {name: artifact.key for name, artifact in own_inputs.items()}
    fingerprint = stage.fingerprint(session)
    key = stage.key(input_keys, fingerprint)
    output = output or session.store.artifact(stage.name, key)
    if redo:
        output.delete_folder("")
    elif output.manifest() is not None:
        output.delete_folder(SCRATCH)  # a run may have been killed before it removed it
        return output, True
    started = time.time()
    session.stage_started(stage.name, output)
    with waiting.watch(session, stage.name):
        metrics = stage.run(own_inputs, output, session)
    output.finish(
        Manifest(
            stage=stage.name,
            key=key,
            stage_version=stage.version,
            config=stage.config.model_dump(mode="json"),
            inputs=input_keys,
            fingerprint=fingerprint,
            metrics=metrics,
            started_at=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            seconds=round(time.time() - started, 2),
            versions=recorded_versions() | ({"commit": commit()} if commit() else {}),
        )
    )
    return output, False
