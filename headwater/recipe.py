"""The recipe: one typed YAML file with every setting of a run.

A section is a stage: a section that is absent is a stage that is not run. Every key has a type and most
have a default. An unknown key raises an error that names the nearest valid key. `depth` sets the model's
size; each value derived from it (`dial`) can be overridden.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from headwater.cluster.errors import HeadwaterError, did_you_mean
from headwater.cluster.runtime.stage import NonEmpty, StageConfig
from headwater.data_pipeline.acquire import AcquireConfig
from headwater.data_pipeline.clean.stage import CleanConfig
from headwater.data_pipeline.tokens.tokenize import TokenizeConfig
from headwater.data_pipeline.tokens.tokenizer import TokenizerConfig
from headwater.llm.model.dial import (
    LEARNING_RATES,
    REFERENCE_DEPTH,
    TOKENS_PER_PARAMETER,
    Derived,
    derive,
    learning_rate,
)
from headwater.llm.rankings.gate import ImproveConfig
from headwater.llm.rl.rewards.verifiers import CITATIONS
from headwater.llm.stages.base import BaseConfig
from headwater.llm.stages.dpo import DpoConfig
from headwater.llm.stages.evaluations.benchmarks import BenchmarksConfig
from headwater.llm.stages.evaluations.evaluate import EvaluateConfig
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.stages.reward import RewardConfig
from headwater.llm.stages.rl import RlConfig
from headwater.llm.stages.sft import SftConfig
from headwater.sections import contradictions
from headwater.serving.config import ServeConfig
from headwater.serving.grounded import GroundedConfig
from headwater.serving.retrieval.index import IndexConfig

RECIPES = Path(__file__).resolve().parent / "data" / "recipes"
AUTO = "auto"
"""Value of `pretrain.batch` or `pretrain.steps` that derives it from `depth`."""
ANY_WORKERS = 1 << 30
"""Stands for an `auto` batch until it is derived: enough for any number of workers."""


class Recipe(StageConfig):
    """Settings of a whole run, from the sources to the endpoint."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; its records and report are in `<store>/runs/<name>/`."""
    store: NonEmpty = "store"
    """Where artifacts are written: a folder or `s3://bucket/prefix`."""
    depth: int = Field(REFERENCE_DEPTH, ge=1)
    """Number of layers. `llm/model/dial.py` derives the other sizes from it; each can be overridden."""
    tokens_per_parameter: float = Field(TOKENS_PER_PARAMETER, gt=0)
    """Training tokens per parameter, used where `pretrain.steps` is `auto`."""
    acquire: AcquireConfig | None = None
    """Read documents."""
    clean: CleanConfig | None = None
    """Clean them."""
    index: IndexConfig | None = None
    """Index their passages, which served answers cite."""
    base: BaseConfig | None = None
    """An existing model to start from, with its tokenizer and chat template."""
    tokenizer: TokenizerConfig | None = None
    """Train a tokenizer. A base model brings its own."""
    tokenize: TokenizeConfig | None = None
    """Encode the documents for pretraining."""
    pretrain: PretrainConfig | None = None
    """Train a model on the documents: a new one, or the base."""
    grounded: GroundedConfig | None = None
    """Make questions with passages and cited answers from the documents, for sft, rl and evaluate."""
    sft: SftConfig | None = None
    """Fine-tune on conversations."""
    dpo: DpoConfig | None = None
    """Direct preference optimisation: learn from pairs of answers without a reward model."""
    reward: RewardConfig | None = None
    """Train a reward model on pairs of answers."""
    rl: RlConfig | None = None
    """Reinforcement learning on a reward model, a verifier, or both."""
    benchmarks: BenchmarksConfig | None = None
    """Measure the first and the newest model on public benchmarks."""
    evaluate: EvaluateConfig | None = None
    """Measure the models and write the report card."""
    serve: ServeConfig = ServeConfig()
    improve: ImproveConfig = ImproveConfig()
    promote: Literal["first", "always", "never"] = "first"
    """Whether the end of a run promotes its model, so that `headwater serve` serves it: only while none has
    been promoted (`first`), every time, or not at all. `headwater promote` does it by hand."""
    question: str = ""
    """Asked over HTTP at the end of a run, to show a cited answer. Empty: no question is asked."""

    def to_yaml(self) -> str:
        """The recipe as a file with every setting, without the sections that it lacks."""
        sections = {key: value for key, value in self.model_dump(mode="json").items() if value is not None}
        return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)


T = TypeVar("T")


def required(section: T | None, name: str) -> T:
    """A section that a command needs. Raises HeadwaterError if the recipe lacks it."""
    if section is None:
        fix = f"add `{name}: {{}}` for its defaults, or choose another recipe"
        raise HeadwaterError(f"the recipe has no section `{name}`", fix=fix)
    return section


@dataclass(frozen=True)
class Pretraining:
    """What a recipe says about training a new model, for the commands that plan it."""

    settings: PretrainConfig
    vocab_size: int
    row_length: int


def pretraining(recipe: Recipe) -> Pretraining:
    """Raises HeadwaterError if the recipe trains no new model."""
    if recipe.base is not None:
        raise HeadwaterError(
            "only the training of a new model can be planned, and this recipe has a base",
            where="base",
            fix="choose a recipe without `base`",
        )
    return Pretraining(
        required(recipe.pretrain, "pretrain"),
        required(recipe.tokenizer, "tokenizer").vocab_size,
        required(recipe.tokenize, "tokenize").row_length,
    )


def dial(depth: int) -> dict[str, Any]:
    """Recipe keys that `depth` sets in the sections that a recipe has."""
    derived: dict[str, Any] = {
        stage: {"learning_rate": learning_rate(stage, depth)} for stage in LEARNING_RATES
    }
    derived["pretrain"]["model"] = {"depth": depth}
    return derived


def packaged() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}


def find(recipe: str | Path) -> Path:
    """A recipe's file: the path itself if it is a file, else the packaged recipe of that name.

    Raises HeadwaterError listing the packaged recipes if there is neither.
    """
    path, known = Path(recipe), packaged()
    if str(recipe) in known and not path.is_file():
        return known[str(recipe)]
    if path.exists():
        return path
    fix = f"give a file, or one of those that come with the package: {', '.join(known)}"
    raise HeadwaterError("no such recipe", where=str(recipe), fix=fix)


def is_recipe(source: str) -> bool:
    """Whether a command's argument names a recipe, where it can be something else."""
    return source.endswith((".yaml", ".yml")) or source in packaged()


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe (a file, or a packaged one's name) and apply `a.b=value` overrides (values in YAML).

    Raises HeadwaterError naming the file and the key.
    """
    file = find(path)
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise HeadwaterError(f"cannot be read as YAML ({error})", where=str(path)) from error
    if not isinstance(raw, dict):
        raise HeadwaterError("a recipe is a mapping of keys to values", where=str(path))
    empty = [name for name, section in raw.items() if section is None]
    if empty:
        raise HeadwaterError(
            f"`{empty[0]}:` has nothing below it",
            where=str(path),
            fix=f"write `{empty[0]}: {{}}` for its defaults, or remove the line to skip it",
        )
    for override in overrides:
        _set(raw, override)
    return parse({name: section for name, section in raw.items() if section is not None}, str(path))


def bare(name: str, store: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe without stages: for the settings of what needs none. Overrides as in `load`."""
    raw: dict[str, Any] = {"name": name, "store": store, "serve": {}}
    for override in overrides:
        _set(raw, override)
    return parse(raw, "--set")


def parse(raw: dict[str, Any], where: str) -> Recipe:
    """A recipe from a mapping. The mapping's values override those derived from `depth`."""
    depth = raw.get("depth", REFERENCE_DEPTH)
    derived = dial(depth) if isinstance(depth, int) and depth > 0 else {}
    derived = {name: values for name, values in derived.items() if raw.get(name) is not None}
    if raw.get("base") is not None:
        derived.pop("pretrain", None)  # the dial's sizes and rates are for fresh models
    try:
        recipe = Recipe.model_validate(_resolved(_own_data_alone(_merge(derived, raw))))
    except ValidationError as error:
        raise HeadwaterError(_explain(error), where=where) from error
    if wrong := contradictions({name: getattr(recipe, name) for name in Recipe.model_fields}):
        raise HeadwaterError("; ".join(wrong), where=where)
    return recipe


def _own_data_alone(raw: dict[str, Any]) -> dict[str, Any]:
    """A recipe in which a stage with own data, or a task, makes none from the corpus, unless asked for.

    With `grounded`, sft makes none from titles, and rl's tasks are scored by their citations.
    """
    no_pairs = {"corpus_pairs": 0, "model_pairs": 0}
    made: dict[str, dict[str, Any]] = {"sft": {"make": []}, "dpo": no_pairs, "reward": no_pairs}
    changed = dict(raw)
    for name, nothing in made.items():
        section = raw.get(name)
        if isinstance(section, dict) and (section.get("data") or section.get("task")):
            changed[name] = nothing | section
    if raw.get("grounded") is not None:
        if isinstance(sft := raw.get("sft"), dict):
            changed["sft"] = made["sft"] | sft
        if isinstance(rl := raw.get("rl"), dict) and not any(map(rl.get, ("prompts", "task", "rewards"))):
            changed["rl"] = {"verifier": CITATIONS} | rl
    return changed


def derived_pretraining(recipe: Recipe, batch: int | None = None) -> Derived:
    """What the dial derives for pretraining from the model's shape, ignoring the recipe's own values."""
    own = pretraining(recipe)
    return derive(
        own.settings.model,
        vocab_size=own.vocab_size,
        row_length=own.row_length,
        tokens_per_parameter=recipe.tokens_per_parameter,
        batch=batch,
    )


def _resolved(raw: dict[str, Any]) -> dict[str, Any]:
    """A recipe with the dial's numbers in place of `auto`."""
    pretrain = raw.get("pretrain")
    if not isinstance(pretrain, dict):
        return raw
    wanted = {key for key in ("batch", "steps") if pretrain.get(key) == AUTO}
    if not wanted:
        return raw
    known = raw | {"pretrain": pretrain | dict.fromkeys(wanted, ANY_WORKERS)}
    recipe = Recipe.model_validate(known)
    batch = None if "batch" in wanted or recipe.pretrain is None else recipe.pretrain.batch
    derived = derived_pretraining(recipe, batch)
    return raw | {"pretrain": pretrain | {key: getattr(derived, key) for key in wanted}}


def load_clean(path: Path | None, steps: Sequence[str] | None, overrides: Sequence[str]) -> CleanConfig:
    """The `clean` section of a recipe, or the defaults, with `step.key=value` overrides. If `steps` is given,
    all others are disabled."""
    raw = required(load(path).clean, "clean").model_dump() if path else {}
    for step in steps or []:
        if step not in CleanConfig.model_fields:
            known = f"steps: {', '.join(CleanConfig.model_fields)}"
            fix = did_you_mean(step, CleanConfig.model_fields) or known
            raise HeadwaterError("no such step", where=step, fix=fix)
    if steps:
        for name in CleanConfig.model_fields:
            if name == "filters":
                raw[name] = raw.get(name, ()) if name in steps else ()
            elif name != "extract":  # every other step needs the extracted text
                raw[name] = (raw.get(name) or {}) | {"enabled": name in steps}
    config = changed_clean(raw, overrides, str(path or "--set"))
    for step in set(steps or []).difference(config.steps(), {"filters"}):
        fix = f"set its lists with --set {step}.KEY=VALUE"
        raise HeadwaterError("this step needs lists or sets to match against", where=step, fix=fix)
    return config


def changed_clean(raw: dict[str, Any], overrides: Sequence[str], where: str) -> CleanConfig:
    """Validate `clean` settings after applying `step.key=value` overrides."""
    for override in overrides:
        _set(raw, override)
    try:
        return CleanConfig.model_validate(raw)
    except ValidationError as error:
        raise HeadwaterError(_explain(error, CleanConfig), where=where) from error


def _set(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise HeadwaterError("not of the form key=value", where=f"--set {override}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise HeadwaterError(f"the value is not YAML ({error})", where=f"--set {override}") from error
    *parents, last = key.split(".")
    here: Any = raw
    for name in parents:
        here = _child(here, name, override)
    if isinstance(here, list):
        here[_position(here, last, override)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise HeadwaterError(f"nothing can be set below {parents[-1]}", where=f"--set {override}")


def _child(here: Any, name: str, override: str) -> Any:
    if isinstance(here, list):
        return here[_position(here, name, override)]
    if not isinstance(here, dict):
        raise HeadwaterError(f"{name} is not a section", where=f"--set {override}")
    if here.get(name) is None:
        here[name] = {}
    return here[name]


def _position(here: list[Any], name: str, override: str) -> int:
    if not name.isdigit() or int(name) >= len(here):
        raise HeadwaterError(f"{name} is not a position in a list of {len(here)}", where=f"--set {override}")
    return int(name)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _explain(error: ValidationError, model: type[BaseModel] = Recipe) -> str:
    """All validation errors with their keys; for an unknown key, the nearest valid one."""
    lines = []
    faults = error.errors()
    wrong_inside = {fault["loc"][:end] for fault in faults for end in range(len(fault["loc"]))}
    for fault in faults:
        if fault["type"] == "too_short" and fault["loc"] in wrong_inside:
            continue  # pydantic counts only the valid items of a list
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            unknown = str(fault["loc"][-1])
            valid = _names(model, fault["loc"][:-1])
            hint = did_you_mean(unknown, valid) or f"valid here: {', '.join(sorted(valid))}"
            lines.append(f"{key}: no such key; {hint}")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            lines.append(f"{key}: {message}" if key else message)
    return "; ".join(lines)


def _names(model: type[BaseModel], location: Sequence[Any]) -> set[str]:
    """Valid field names at a location in the recipe, which names the member of a union that was taken."""
    models = {model}
    for part in location:
        if len(models) > 1 and (taken := {m for m in models if part in _tags(m)}):
            models = taken
        elif fields := [m.model_fields[part] for m in models if part in m.model_fields]:
            models = {inner for field in fields for inner in _models(field.annotation)}
    return {name for m in models for name in m.model_fields}


def _models(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for part in typing.get_args(annotation) for model in _models(part)}


def _tags(model: type[BaseModel]) -> set[str]:
    """What a location calls a member of a union: its class's name, and the values of its `Literal` fields."""
    values = (typing.get_args(field.annotation) for field in model.model_fields.values())
    return {model.__name__, *(value for given in values for value in given if isinstance(value, str))}
