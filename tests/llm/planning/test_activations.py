"""Activation memory predicted with fake tensors equals that of a real pass."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from headwater.llm.model.shape import ModelConfig, hf_config
from headwater.llm.planning.activations import Pass, activations, pass_peak

IDS: Any = SimpleNamespace(eos_token_id=0, pad_token_id=0)
SHAPE = hf_config(ModelConfig(depth=5, width=64, context=256), 512, IDS)


WAYS = [
    Pass(),
    Pass(on_gpus=True),
    Pass(checkpointing=True),
    Pass(separate_documents=True),
    Pass(z_loss=1e-4),
]
AT_HAND = [(Pass(), "bf16"), (Pass(on_gpus=True), "fp32"), (Pass(separate_documents=True), "bf16")]


@pytest.mark.parametrize(
    ("how", "precision"),
    AT_HAND
    + [
        pytest.param(how, precision, marks=pytest.mark.soak)
        for how, precision in itertools.product(WAYS, ["fp32", "bf16"])
        if (how, precision) not in AT_HAND
    ],
)
def test_four_small_fake_tensor_passes_predict_the_peak_of_a_real_one(precision: str, how: Pass) -> None:
    predicted = activations(SHAPE, 128, precision, how)
    for rows in (1, 5):
        real = pass_peak(SHAPE, rows, 128, precision, how)
        assert predicted.of(rows) == pytest.approx(real, rel=0.05)


OTHERS = [
    ({"architecture": "llama"}, Pass()),
    ({"architecture": "gemma2", "sliding_window": 32}, Pass()),
    ({"architecture": "gemma3", "sliding_window": 32, "layer_types": ["sliding", "sliding", "full"]}, Pass()),
    ({"architecture": "nanochat"}, Pass(checkpointing=True)),
    ({"sliding_window": 32}, Pass()),
    ({"sliding_window": 32}, Pass(separate_documents=True)),
    ({"sliding_window": 32, "layer_types": ["sliding"]}, Pass(on_gpus=True)),
]


@pytest.mark.parametrize(("settings", "how"), OTHERS, ids=str)
def test_so_they_do_of_every_architecture_and_of_layers_with_windows(
    settings: dict[str, Any], how: Pass
) -> None:
    model = ModelConfig.model_validate({"depth": 5, "width": 64, "context": 256} | settings)
    shape = hf_config(model, 512, IDS)
    predicted = activations(shape, 128, "fp32", how)
    for rows in (1, 5):
        assert predicted.of(rows) == pytest.approx(pass_peak(shape, rows, 128, "fp32", how), rel=0.05)


def test_the_largest_micro_batch_is_the_last_that_fits() -> None:
    predicted = activations(SHAPE, 64, "bf16", Pass())
    rows = predicted.most_rows(10**8)
    assert predicted.of(rows) <= 10**8 < predicted.of(rows + 1)
    assert predicted.most_rows(1000) == 0
