"""The pipeline: the stages, their order, and running them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from headwater import preflight, promotion
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.extras import require
from headwater.cluster.runtime.run_record import StageRecord
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Stage, execute, locate
from headwater.cluster.storage.artifact import MANIFEST, Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.acquire import Acquire
from headwater.data_pipeline.clean.stage import Clean
from headwater.data_pipeline.tokens.tokenize import Tokenize
from headwater.data_pipeline.tokens.tokenizer import TrainTokenizer
from headwater.llm.planning.plan_report import PlanAhead
from headwater.llm.stages.base import Base
from headwater.llm.stages.data.preference_pairs import PairStage
from headwater.llm.stages.dpo import Dpo
from headwater.llm.stages.evaluations.benchmarks import Benchmarks
from headwater.llm.stages.evaluations.evaluate import Evaluate
from headwater.llm.stages.models import MODELS, newest
from headwater.llm.stages.pretrain import Pretrain
from headwater.llm.stages.reward import Reward
from headwater.llm.stages.rl import Rl
from headwater.llm.stages.sft import Sft
from headwater.recipe import Recipe
from headwater.serving.grounded import Grounded
from headwater.serving.retrieval.index import Index
from headwater.serving.retrieval.search import PassageIndex

STAGES: tuple[type[Stage[Any]], ...] = (
    Acquire,
    Clean,
    Index,
    Base,
    TrainTokenizer,
    Tokenize,
    Pretrain,
    Grounded,
    Sft,
    Dpo,
    Reward,
    Rl,
    Benchmarks,
    Evaluate,
)
NAMES = tuple(stage.name for stage in STAGES)
CORE = frozenset({Acquire.name, Clean.name})
"""Stages that need none of the package's extras."""


@dataclass(frozen=True)
class StageResult:
    """One stage of a run: its artifact, and whether that already existed (`found`)."""

    name: str
    artifact: Artifact
    found: bool
    seconds: float


def stages(recipe: Recipe) -> list[Stage[Any]]:
    """The recipe's stages in order, each configured by its section.

    Raises HeadwaterError if there are none, or if one lacks an input, naming the ways to give it.
    """
    made: list[Stage[Any]] = []
    for kind in STAGES:
        section = getattr(recipe, kind.name)
        if section is not None:
            stage = kind(section)
            stage.input_names([earlier.name for earlier in made])
            if isinstance(stage, Pretrain):
                stage.compare_with_plan = PlanAhead
            if isinstance(stage, Rl | Evaluate):
                stage.open_index = PassageIndex
            made.append(stage)
    if not made:
        raise HeadwaterError(
            "the recipe has no stage to run",
            where=recipe.name,
            fix=f"add a section: {', '.join(NAMES)}; `headwater init` writes a recipe",
        )
    return made


def run(
    recipe: Recipe, session: Session, *, start: str | None = None, until: str | None = None
) -> list[StageResult]:
    """Run every unfinished stage.

    `start`: run this stage and all later ones again; the earlier ones must be finished. `until`: stop
    after this stage. Raises HeadwaterError for an unknown stage.
    """
    chain = stages(recipe)
    names = [stage.name for stage in chain]
    first, last = position(start, 0, names), position(until, len(names) - 1, names)
    _check_extras(set(names[: last + 1]))
    preflight.check(recipe, chain[: last + 1], session, redo=start)
    session.run_folder(recipe.name).write_bytes("recipe.yaml", recipe.to_yaml().encode())
    if session.record:
        session.record.expect(last + 1)
    artifacts: dict[str, Artifact] = {}
    results = []
    for number, stage in enumerate(chain[: last + 1]):
        began = time.monotonic()
        if start is not None and number < first and locate(stage, artifacts, session).manifest() is None:
            raise HeadwaterError(
                f"cannot start at {start}: stage {stage.name} has not finished",
                where=session.store.location,
                fix="run without --from",
            )
        redo = start is not None and number >= first
        artifact, found = execute(stage, artifacts, session, redo=redo)
        artifacts[stage.name] = artifact
        for place, later in enumerate(chain[number + 1 : last + 1], start=number + 1):
            if stage.name in later.input_names(names[:place]):
                later.check_inputs({stage.name: artifact})
        result = StageResult(stage.name, artifact, found, time.monotonic() - began)
        results.append(result)
        _tell(session, result, f"{number + 1:>2}/{len(names)}")
        if session.record:
            session.record.stage_done(
                StageRecord(stage=stage.name, key=artifact.key, found=found, seconds=round(result.seconds, 2))
            )
    return results


def _check_extras(names: set[str]) -> None:
    """Missing packages are reported before the first stage, not after hours of work."""
    trained = ["train"] if names - CORE - {Index.name} else []
    require(*trained, *(["serve"] if Index.name in names else []))


@dataclass(frozen=True)
class Servable:
    """What a recipe's endpoint needs: a model, the index if there is one, and how the model answers."""

    model: Artifact
    index: Artifact | None
    answer: Literal["quote", "write"]


def servable(recipe: Recipe, session: Session) -> Servable:
    """What was promoted, with its index and way of answering; without a promotion the newest finished model.

    Says which it is, and what is newer. Raises HeadwaterError if model or index is missing.
    """
    model, promoted = served_model(recipe, session)
    if promoted is not None:
        if promoted.answer != recipe.serve.answer:
            session.say(
                f"it was promoted to answer with `{promoted.answer}`, and `serve.answer` is "
                f"{recipe.serve.answer}: promote it again to change that"
            )
        return Servable(*promotion.artifacts_of(session.store, promoted), promoted.answer)
    index = None if recipe.index is None else finished(recipe, session, Index.name)[Index.name]
    return Servable(model, index, recipe.serve.answer)


def served_model(recipe: Recipe, session: Session) -> tuple[Artifact, promotion.Promotion | None]:
    """The promoted model with its promotion, or the newest finished one. Says which it is."""
    promoted = promotion.current(session.store, recipe.name)
    if promoted is None:
        model = newest_finished(recipe, session)
        session.say(f"the newest finished model, {model.location}: none was promoted for {recipe.name}")
        return model, None
    model, _ = promotion.artifacts_of(session.store, promoted)
    session.say(f"promoted: {promoted.told()}")
    if (newer := _newer_than(model, recipe, session)) is not None:
        session.say(f"newer, and not promoted: {promotion.name_of(newer)} (`headwater promote` serves it)")
    return model, promoted


def _newer_than(model: Artifact, recipe: Recipe, session: Session) -> Artifact | None:
    """The recipe's newest finished model, if it was made after this one."""
    with contextlib.suppress(HeadwaterError):  # what is promoted outlives what the recipe would make
        found = newest_finished(recipe, Session(session.store))
        if found != model and found.finished().started_at > model.finished().started_at:
            return found
    return None


def promote_finished(recipe: Recipe, session: Session, artifacts: Mapping[str, Artifact]) -> bool:
    """Promote the model of a finished run as `promote` in the recipe says. Returns whether it is served."""
    model, before = newest(artifacts), promotion.current(session.store, recipe.name)
    if before is not None and before.model == promotion.name_of(model):
        return True
    if recipe.promote == "never" or (recipe.promote == "first" and before is not None):
        return before is None
    index = artifacts.get(Index.name)
    why = "the first finished run" if before is None else "promote: always"
    promotion.promote(session.store, recipe.name, model, index, recipe.serve.answer, kind="run", why=why)
    return True


def newest_finished(recipe: Recipe, session: Session) -> Artifact:
    """The newest finished model of a recipe. Logs which model the recipe would make but has not finished.

    Raises HeadwaterError if no model has finished.
    """
    models = [stage.name for stage in stages(recipe) if stage.name in MODELS]
    if not models:
        raise HeadwaterError(
            "the recipe makes no model", where=recipe.name, fix="add a section `base` or `pretrain`"
        )
    for name in reversed(models):
        with contextlib.suppress(Unfinished):
            model = finished(recipe, session, name)[name]
            if name != models[-1]:
                session.say(
                    f"stage {models[-1]} has not finished: this is the model of {name}, {model.location}"
                )
            return model
    try:
        finished(recipe, session)
    except Unfinished as error:
        what = f"no model has finished yet: {error.what}"
        raise Unfinished(what, where=error.where, fix=error.fix) from error
    raise AssertionError("unreachable: a model has not finished, so `finished` raised")


class Unfinished(HeadwaterError):
    """A stage that is needed has not finished."""


def finished(recipe: Recipe, session: Session, only: str | None = None) -> dict[str, Artifact]:
    """The recipe's finished artifacts. With `only`: those up to that stage, and only it must have finished.

    If rankings have changed since training, returns the artifacts of the newest finished model and logs
    that. Raises HeadwaterError naming the first stage that has not finished.
    """
    last = only or stages(recipe)[-1].name
    now = {name: artifact for name, (_, artifact) in located(recipe, session, last).items()}
    missing = _missing(now, only)
    if missing is None:
        return now
    trained = [chain for chain in _whatever_rankings(recipe, session, last) if _missing(chain, only) is None]
    if not trained:
        raise Unfinished(
            f"stage {missing.stage} has not finished",
            where=missing.location,
            fix="run `headwater run` first" + (", or choose another --stage" if only else ""),
        )
    newest = max(trained, key=_times)
    session.say(
        f"rankings were added or removed after {newest[last].location} was made; "
        f"`headwater run` on {recipe.name} trains on the current ones"
    )
    return newest


def _missing(artifacts: dict[str, Artifact], only: str | None) -> Artifact | None:
    """The first unfinished artifact, or None."""
    wanted = [artifacts[only]] if only else artifacts.values()
    return next((artifact for artifact in wanted if not artifact.exists(MANIFEST)), None)


def _times(artifacts: dict[str, Artifact]) -> list[str]:
    """Start times of the stages, last stage first: artifacts shared by two chains compare equal."""
    manifests = [artifact.manifest() for artifact in reversed(artifacts.values())]
    return [manifest.started_at if manifest else "" for manifest in manifests]


def _whatever_rankings(recipe: Recipe, session: Session, last: str) -> list[dict[str, Artifact]]:
    """The recipe's artifacts up to `last`, once for every set of rankings that a stage has finished with."""
    manifests = session.store.manifests()
    chains: list[dict[str, Artifact]] = [{}]
    for stage in stages(recipe):
        longer = []
        now = stage.fingerprint(session)
        made = [each for each in manifests if isinstance(stage, PairStage) and each.stage == stage.name]
        for chain in chains:
            keys = {name: artifact.key for name, artifact in stage.own_inputs(chain).items()}
            own = {stage.key(keys, now)}
            own |= {each.key for each in made if stage.key(keys, each.fingerprint) == each.key}
            longer += [chain | {stage.name: session.store.artifact(stage.name, key)} for key in sorted(own)]
        chains = longer
        if stage.name == last:
            break
    return chains


def located(recipe: Recipe, session: Session, last: str) -> dict[str, tuple[Stage[Any], Artifact]]:
    """The stages up to `last` and their artifacts, finished or not; HeadwaterError for a missing stage."""
    position(last, 0)
    artifacts: dict[str, Artifact] = {}
    found = {}
    for stage in stages(recipe):
        artifacts[stage.name] = locate(stage, artifacts, session)
        found[stage.name] = (stage, artifacts[stage.name])
        if stage.name == last:
            return found
    raise HeadwaterError(f"the recipe has no stage {last}", where=recipe.name, fix=f"add a section `{last}`")


def opened(store: Store, name: str, key: str) -> tuple[Stage[Any], dict[str, Artifact], Artifact]:
    """A finished stage with its inputs and its artifact, from the settings in the manifest.

    Raises HeadwaterError for settings of another version, and for an input that was deleted.
    """
    output = store.artifact(name, key)
    manifest = output.finished()
    made = next(each for each in STAGES if each.name == name)
    settings: Any = Recipe.model_fields[name].annotation
    try:
        config = TypeAdapter(settings).validate_python(manifest.config)
    except ValidationError as error:
        raise HeadwaterError(
            f"its settings are from another version of Headwater ({error.error_count()} keys differ)",
            where=output.location,
            fix="use the version named in its manifest",
        ) from error
    inputs = {each: store.artifact(each, of_input) for each, of_input in manifest.inputs.items()}
    for of_input in inputs.values():
        if of_input.manifest() is None:
            raise HeadwaterError(
                "an input of this stage was deleted", where=of_input.location, fix="run its stage again"
            )
    return made(config), inputs, output


def position(name: str | None, default: int, names: Sequence[str] = NAMES) -> int:
    """Index of a stage in `names`. Raises HeadwaterError for an unknown name."""
    if name is None:
        return default
    if name not in names:
        fix = f"the recipe has no section `{name}`" if name in NAMES else f"one of {', '.join(names)}"
        raise HeadwaterError(f"unknown stage {name}", fix=fix)
    return names.index(name)


def _tell(session: Session, result: StageResult, place: str) -> None:
    state = "found" if result.found else f"{result.seconds:.0f} s"
    session.console.print(
        f"[bold green]✓[/] [bold]{place} {result.name:<10}[/] {state:>7}  [dim]{result.artifact.location}[/]",
        highlight=False,
        soft_wrap=True,
    )
