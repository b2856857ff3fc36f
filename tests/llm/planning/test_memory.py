"""The memory formulas of training state agree with the ZeRO paper and with real engines."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from benchmarks.training.zero_memory import measure, meta_weights
from headwater.llm.model.shape import Weight, weights_of
from headwater.llm.planning.memory import largest_state, state_formula
from headwater.llm.training.held_memory import StateBytes
from headwater.llm.training.zero_config import Optimizer, ZeroConfig
from tests.llm.models import small_model

CASES = [
    (stage, precision, optimizer)
    for stage, (precision, optimizer) in itertools.product(range(4), (("fp32", "adamw"), ("bf16", "muon")))
] + [(2, "bf16", "adamw"), (3, "bf16", "adamw")]  # gradients in fp32


def formula(
    weights: list[Weight], stage: int, world_size: int, precision: str, optimizer: Optimizer, **settings: Any
) -> StateBytes:
    return largest_state(
        weights,
        ZeroConfig.model_validate({"stage": stage, **settings}),
        world_size=world_size,
        precision=precision,
        optimizer=optimizer,
    )


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_a_model_of_seven_and_a_half_billion_on_64_workers_takes_what_the_paper_says(
    stage: int, gigabytes: float
) -> None:
    """Rajbhandari et al. 2019, figure 1: 16-bit Adam, Ψ = 7.5 B, N = 64."""
    weights = [Weight(f"layers.{n}", (7_500, 1_000)) for n in range(1000)]
    state = formula(weights, stage, 64, "bf16", "adamw", grad_accum_dtype="model")
    assert state.total / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_engines_hold_within_a_tenth_of_the_formula() -> None:
    measured = measure(2, 1, CASES)
    for (stage, precision, optimizer), (held, others) in zip(CASES, measured, strict=True):
        expected = formula(meta_weights(1), stage, 2, precision, optimizer)  # type: ignore[arg-type]
        for part in ("parameters", "gradients", "optimizer"):
            assert getattr(held, part) == pytest.approx(getattr(expected, part), rel=0.1), (stage, part)
        assert others < 0.25 * held.total, (stage, others)  # nothing large was overlooked


def test_offload_moves_the_optimizer_to_the_host_and_leaves_the_parameters() -> None:
    """Ren et al. 2021: 16 bytes a parameter lie with the host, shared out over the workers."""
    weights = [Weight("layers.0", (1024, 1024))]
    zero = ZeroConfig(stage=2, offload_optimizer=True)
    state = state_formula(weights, zero, world_size=4, precision="bf16", optimizer="adamw")
    assert state.host == 16 * 1024 * 1024 // 4
    assert state.device == state.parameters + 2 * 1024 * 1024  # the gradient of a matrix that all four share


def test_muon_keeps_one_moment_of_the_hidden_matrices_and_two_of_the_rest() -> None:
    weights = weights_of(small_model())
    hidden = sum(weight.size for weight in weights if weight.hidden)
    names = {weight.name.split(".")[-2] for weight in weights if weight.hidden}
    assert "embed_tokens" not in names and "q_proj" in names
    adamw, muon = (formula(weights, 0, 1, "fp32", name).optimizer for name in ("adamw", "muon"))  # type: ignore[arg-type]
    assert adamw - muon == 4 * hidden


def test_tied_tensors_and_tensors_that_are_not_trained_are_counted_once_and_not_at_all() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4, bias=False), "b": torch.nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    model["b"].bias.requires_grad = False
    assert weights_of(model) == [Weight("a.weight", (4, 4))]
