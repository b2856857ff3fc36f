"""Models without values become engines: every rank has its part of the same weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from headwater.cluster.storage.artifact import Folder
from headwater.llm.model import build
from headwater.llm.model.adapters import LoraConfig
from headwater.llm.model.origins import fresh
from headwater.llm.model.shape import ModelConfig, hf_config
from headwater.llm.stages.pretrain import PretrainConfig
from headwater.llm.training import engine as training_engine
from headwater.llm.training import zero
from headwater.llm.training.config import FineTuneConfig
from headwater.llm.training.parallel import tensor
from headwater.llm.training.state import birth, elements
from headwater.llm.training.undocumented import deepspeed_internals as internals
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.jobs import run_job
from tests.llm.models import save_model, small_model
from tests.llm.random_rows import Rows
from tests.llm.ranks import on_ranks

SHAPE = ModelConfig(depth=2, width=128, kv_groups=1, context=64)  # two heads, which two workers can share
SETTINGS: dict[str, Any] = {"steps": 4, "batch": 8, "micro_batch": 2, "precision": "fp32"}


def unborn() -> torch.nn.Module:
    tokenizer = chat_tokenizer()
    return fresh(hf_config(SHAPE, len(tokenizer), tokenizer), 5)


def whole() -> dict[str, torch.Tensor]:
    tokenizer = chat_tokenizer()
    model = build.initialise(hf_config(SHAPE, len(tokenizer), tokenizer), 5)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def engine_of(model: torch.nn.Module, **settings: Any) -> Any:
    kind = FineTuneConfig if "lora" in settings else PretrainConfig
    config = kind(**(SETTINGS | settings), workers=dist.get_world_size())
    return training_engine.build(model, config, dist.get_world_size())


def check_elements(engine: Any, expected: dict[str, torch.Tensor], kind: str = elements.WEIGHTS) -> None:
    """This rank's fp32 elements are those of the whole model, and every parameter is among some rank's."""
    seen = torch.zeros(1, dtype=torch.int64)
    for run in elements.runs(engine):
        if kind in run.values:
            values = run.values[kind].detach()
            part = expected[run.parameter].reshape(-1)[run.place.start :][: values.numel()]
            assert values.dtype == torch.float32 and torch.equal(values, part), run.parameter
            seen += values.numel()
    if engine.zero_optimization_stage():
        dist.all_reduce(seen)
    assert int(seen) == sum(values.numel() for values in expected.values())


def check_model(engine: Any, expected: dict[str, torch.Tensor]) -> None:
    """The model computes with the same weights, rounded to its precision."""
    with zero.gathered(engine) as module:
        for name, parameter in module.named_parameters():
            assert torch.equal(parameter, expected[name].to(parameter.dtype)), name


def every_sharding_has_the_same_weights(stages: Sequence[int]) -> None:
    """Some in fp32, with a moving average, and some in bf16 with Muon; ZeRO 3 also offloaded."""
    expected = whole()
    ways: list[dict[str, Any]] = [{"ema_decay": 0.9}, {"precision": "bf16", "optimizer": "muon"}]
    offloaded = {"offload_optimizer": "cpu", "offload_parameters": "cpu"}
    for stage, where in [*((stage, {}) for stage in stages), (3, offloaded)]:
        way = ways[(stage + dist.get_world_size()) % 2]
        engine = engine_of(unborn(), zero={"stage": stage, **where}, **way)
        check_elements(engine, expected)
        check_model(engine, expected)
        if "ema_decay" in way:
            check_elements(engine, expected, elements.AVERAGE)


@pytest.mark.parametrize(("ranks", "stages"), [(1, (0, 3)), (2, (0, 1, 2, 3)), (3, (1, 3))])
def test_every_number_of_workers_zero_stage_and_precision_has_the_same_weights(
    ranks: int, stages: tuple[int, ...]
) -> None:
    on_ranks(ranks, every_sharding_has_the_same_weights, stages)


def places(tensors: Iterable[torch.Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that has memory."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not made.is_meta:
            self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return made


def at_zero_3_no_rank_makes_a_whole_table() -> None:
    model = fresh(hf_config(SHAPE, 4_096, chat_tokenizer()), 5)
    config = PretrainConfig(**SETTINGS, zero={"stage": 3}, workers=3)
    settings = zero.deepspeed_config(config, "fp32", 3)
    with Largest() as largest:
        found = birth.give_memory(model, settings, config, torch.float32, None)
    engine = zero.initialise_engine(model, settings, config)  # gathers each parameter once, without values
    engine.origins = found
    with largest:
        birth.fill(engine)
    copies, parts = internals.fp32_copies(engine), map(internals.part_values, engine.module.parameters())
    assert places(copies) == places(parts)  # in fp32 the optimizer trains the model's own weights
    table = 4 * 4_096 * 128
    assert 0.3 * table < largest.bytes < 0.8 * table  # a third of all weights, in one flat vector


def test_at_zero_3_no_rank_makes_a_whole_table() -> None:
    on_ranks(3, at_zero_3_no_rank_makes_a_whole_table)


def workers_that_share_layers_have_their_parts() -> None:
    engine = engine_of(unborn(), zero={"stage": 1}, tensor_parallel=2)
    found = tensor.whole_weights(engine, engine.module)
    assert found is not None
    for name, values in whole().items():
        assert torch.equal(found[name], values), name


def test_workers_that_share_layers_have_their_parts() -> None:
    on_ranks(2, workers_that_share_layers_have_their_parts)


def a_frozen_base_is_read_in_parts(folder: Folder) -> None:
    expected = {name: values.detach() for name, values in small_model(3).named_parameters()}
    adapters = []
    for make, stage in ((build.stored_model, 1), (build.stored_model, 3), (build.saved_model, 3)):
        engine = engine_of(make(folder), zero={"stage": stage}, precision="bf16", lora=LoraConfig(rank=2))
        with zero.gathered(engine) as module:
            found = dict(module.named_parameters())
            for name, values in expected.items():
                inner = name.replace("proj.weight", "proj.base_layer.weight")
                assert torch.equal(found.pop(f"base_model.model.{inner}"), values.bfloat16()), name
            assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
            adapters.append({name: parameter.detach().clone() for name, parameter in found.items()})
    for name, values in adapters[0].items():
        bound = values.shape[-1] ** -0.5 if ".lora_A." in name else 0.0
        assert (
            ".lora_" in name
            and float(values.abs().max()) <= bound * 1.01
            and bool(values.any()) == (bound > 0)
        )
        assert all(torch.equal(values, other[name]) for other in adapters)


def test_a_frozen_base_is_read_in_parts_and_adapters_start_as_ever(tmp_path: Path) -> None:
    on_ranks(2, a_frozen_base_is_read_in_parts, save_model(tmp_path, small_model(3)))


def new_heads_start_as_zero(folder: Folder) -> None:
    for make, head, stage in ((build.critic, "value_head", 3), (build.new_reward_model, "score", 2)):
        engine = engine_of(make(folder), zero={"stage": stage})
        with zero.gathered(engine) as module:
            assert not getattr(module, head).weight.any()
            for name, values in small_model(3).model.named_parameters():
                assert torch.equal(module.model.get_parameter(name), values), name


def test_new_heads_start_as_zero_on_a_stored_model(tmp_path: Path) -> None:
    on_ranks(2, new_heads_start_as_zero, save_model(tmp_path, small_model(3)))


def a_resumed_run_makes_nothing(folder: Path) -> None:
    settings = {"zero": {"stage": 3}, "precision": "bf16", "ema_decay": 0.9, "checkpoint_every": 2}
    where = folder / "run"
    first = run_job(where, Rows(8), folder / "screen", model=unborn, steps=2, **settings)
    weights = {
        run.parameter: run.values[elements.WEIGHTS].detach().clone() for run in elements.runs(first.engine)
    }
    again = run_job(where, Rows(8), folder / "screen", model=unmakeable, steps=2, **settings)
    for run in elements.runs(again.engine):
        assert torch.equal(run.values[elements.WEIGHTS].detach(), weights[run.parameter])


class Unmakeable:
    def read(self, start: int, into: torch.Tensor) -> None:
        raise AssertionError("made in vain")


def unmakeable() -> torch.nn.Module:
    model = unborn()
    for parameter in model.parameters():
        parameter.origin = Unmakeable()  # type: ignore[attr-defined]
    return model


def test_a_resumed_run_makes_no_weights_that_the_checkpoint_has(tmp_path: Path) -> None:
    on_ranks(2, a_resumed_run_makes_nothing, tmp_path)
