"""Bounds of settings: every number has one, and what cannot work is refused when the recipe is read."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.llm.hardware.machines import Gpu
from headwater.llm.planning.scaling import ScalingConfig
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.stages.rl import RlConfig
from headwater.pipeline import stages
from headwater.recipe import Recipe, load, parse
from headwater.serving.config import AppConfig
from tests.headwater.sections import CHAIN

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.yaml"
SOURCE = CHAIN | {"acquire": {"sources": [{"kind": "folder", "paths": ["pages"]}]}}
UNBOUNDED: dict[str, str] = {}
"""`Class.field` of a number that may be anything, with the reason."""


def config_classes(model: type[BaseModel]) -> set[type[BaseModel]]:
    """The model and every settings class below it."""
    found = {model}
    for field in model.model_fields.values():
        for kind, _ in leaves(field.annotation, ()):
            if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in found:
                found |= config_classes(kind)
    return found


def leaves(annotation: Any, metadata: tuple[Any, ...]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The types inside an annotation, each with the constraints around it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from leaves(arguments[0], (*metadata, *arguments[1:]))
    elif origin is Literal or not arguments:
        yield annotation, metadata
    else:
        inner = () if origin in (tuple, list, dict, set, frozenset) else metadata
        for argument in arguments:
            yield from leaves(argument, inner)


CLASSES = sorted(
    {kind for root in (Recipe, ScalingConfig, AppConfig, Gpu) for kind in config_classes(root)},
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_number_of_every_section_has_a_lower_bound(kind: type[BaseModel]) -> None:
    for name, field in kind.model_fields.items():
        for leaf, constraints in leaves(field.annotation, tuple(field.metadata)):
            if leaf not in (int, float) or f"{kind.__name__}.{name}" in UNBOUNDED:
                continue
            adapter = TypeAdapter(typing.Annotated[(leaf, *constraints)])
            with pytest.raises(ValidationError, match=r"greater than"):
                adapter.validate_python(leaf(-(10**9)))
                pytest.fail(f"{kind.__name__}.{name} takes -1,000,000,000: give it `Field(ge=…)`")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_no_section_takes_nan_or_infinity(kind: type[BaseModel]) -> None:
    assert kind.model_config.get("allow_inf_nan") is False


def test_the_walk_reaches_the_sections_of_the_recipe() -> None:
    names = {kind.__name__ for kind in CLASSES}
    assert {"PretrainConfig", "ZeroConfig", "LoraConfig", "QualityConfig", "WheelSource", "Corpus"} <= names


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.steps=-5", r"pretrain\.steps: Input should be greater than or equal to 1"),
        ("pretrain.batch=0", r"pretrain\.batch: Input should be greater than or equal to 1"),
        ("sft.learning_rate=-1", r"sft\.learning_rate: Input should be greater than 0"),
        ("sft.learning_rate=.nan", r"sft\.learning_rate: Input should be a finite number"),
        ("pretrain.mixture={a: .inf}", r"pretrain\.mixture\.a: Input should be a finite number"),
        ("reward.warmup_share=7", r"reward\.warmup_share: Input should be less than or equal to 1"),
        ("rl.temperature=-1", r"rl\.temperature: Input should be greater than 0"),
        ("pretrain.betas=[0.9, 1]", r"pretrain\.betas\.1: Input should be less than 1"),
        ("pretrain.model.width=100", r"pretrain\.model\.width: Input should be a multiple of 64"),
        ("rl.group=1", r"rl\.group: Input should be greater than or equal to 2"),
        ("sft.lora={targets: []}", r"sft\.lora\.targets: Tuple should have at least 1 item"),
        ("clean.language.languages=[]", r"clean\.language\.languages: Tuple should have at least 1 item"),
        ("acquire.sources.0.columns.text=''", r"columns\.text: String should have at least 1 character"),
        ("sft.files=['']", r"sft\.files\.0: String should have at least 1 character"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(override: str, message: str) -> None:
    with pytest.raises(HeadwaterError, match=message):
        load(QUICKSTART, [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["pretrain.min_workers=3"],
            r"pretrain: `min_workers` is 3 with 2 workers: choose at most `workers`",
        ),
        (["sft.batch=1"], r"sft: a `batch` of 1 sequences is too small for 2 workers"),
        (
            ["pretrain.warmup_share=0.6"],
            r"pretrain: `warmup_share` \(0\.6\) and `decay_share` \(0\.5\) add",
        ),
        (["rl.batch=41"], r"rl: `batch` \(41\) is not a multiple of `group` \(8\)"),
        (
            ["rl.max_staleness=1", "rl.on_nan=rollback"],
            r"rl: `max_staleness` lets .* choose `stop` or `skip`",
        ),
        (["rl.batch=8"], r"rl: `batch` \(8\) holds fewer groups of 8 than there are `workers` \(2\)"),
        (["reward.max_new_tokens=320"], r"reward: `max_new_tokens` \(320\) leaves no room .* `max_length`"),
        (["reward.lora={quantise: nf4}"], r"reward: `lora\.quantise` is not there for a reward model"),
        (["reward.lora={targets: [score]}"], r"reward: `lora\.targets` names score, which is trained"),
        (["dpo={gamma: 1}"], r"dpo: `gamma` belongs to `loss: simpo`; this is `dpo`"),
        (["dpo={loss: ipo, label_smoothing: 0.1}"], r"dpo: `label_smoothing` belongs to `loss: dpo`"),
        (
            ["index.overlap_words=80"],
            r"index: `overlap_words` \(80\) must be less than `passage_words`",
        ),
        (
            ["clean.gopher_quality.min_words=200000"],
            r"gopher_quality: `min_words` \(200000\) is above",
        ),
        (
            ["tokenize.row_length=2048"],
            r"`tokenize\.row_length` \(2048\) is above `pretrain\.model\.context`",
        ),
        (["sft.max_length=1025"], r"`sft\.max_length` \(1025\) is above `pretrain\.model\.context` \(1024\)"),
        (["rl.max_new_tokens=1024"], r"`rl\.max_new_tokens` \(1024\) leaves no room for a prompt"),
        (["pretrain.sequence_parallel=2", "pretrain.workers=3"], r"3 workers cannot form groups of 2"),
        (["pretrain.tensor_parallel=2"], r"tensor_parallel: 2: .*3 heads cannot be split evenly"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_when_read(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(HeadwaterError, match=message) as refused:
        load(QUICKSTART, overrides)
    assert "Value error" not in str(refused.value)


def test_settings_at_their_bounds_are_taken() -> None:
    recipe = load(
        QUICKSTART,
        [
            "pretrain.min_workers=1",  # elastic
            "pretrain.warmup_share=0.5",
            "sft.schedule=cosine",
            "sft.warmup_share=0.9",  # only `wsd` has a decay of its own
            "sft.clip=0",
            "rl.batch=48",
            "rl.workers=3",
            "rl.kl=0",
            "tokenize.row_length=1024",
        ],
    )
    assert recipe.pretrain.fewest_workers() == 1


def test_a_batch_from_the_dial_suits_more_workers_than_the_default_batch() -> None:
    settings = {"batch": "auto", "steps": "auto", "workers": 24}
    recipe = parse(SOURCE | {"name": "x", "depth": 8, "pretrain": settings}, "test")
    assert recipe.pretrain.batch >= 24


def test_recorded_settings_parse_again() -> None:
    """Manifests are validated again by `evaluate`, `clean --update` and `what-if`."""
    for stage in stages(load(QUICKSTART)):
        recorded = stage.config.model_dump(mode="json")
        assert type(stage.config).model_validate(recorded) == stage.config
    # Values that older versions took and that switch a rule off.
    CleanConfig.model_validate(
        {"gopher_repetition": {"max_duplicate_lines": 2.0}, "c4": {"min_sentences": 0}}
    )
    RlConfig.model_validate({"kl": 0.0, "reward_model_weight": 0.0, "max_failures": 0})
    PretrainConfig.model_validate({"clip": 0.0, "warmup_share": 0.0, "decay_share": 0.0, "weight_decay": 0.0})
