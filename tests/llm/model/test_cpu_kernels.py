"""Blockwise attention, norms and loss equal torch's, and so do their gradients."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from headwater.llm.model import cpu_kernels
from headwater.llm.training.losses.token_losses import token_losses
from tests.llm.models import foreign_model, small_model


@pytest.mark.parametrize("length", [2, 64, 150])
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_attention_and_its_gradients_are_torchs(
    length: int, precision: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(length)
    q, k, v, d_out = (torch.randn(2, heads, length, 16) for heads in (6, 2, 2, 6))
    exact = [t.clone().requires_grad_() for t in (q, k, v)]
    expected = scaled_dot_product_attention(*exact, is_causal=True, enable_gqa=True)
    expected.backward(d_out)
    ours = [t.to(precision).requires_grad_() for t in (q, k, v)]
    out, _ = cpu_kernels.causal_attention(None, *ours, None)
    out.backward(d_out.to(precision).transpose(1, 2))
    pairs = [(out.transpose(1, 2), expected)] + [(a.grad, b.grad) for a, b in zip(ours, exact, strict=True)]
    for got, wanted in pairs:
        assert got is not None and wanted is not None
        assert float(((got.float() - wanted).norm() / wanted.norm()).detach()) < tolerance


def test_losses_over_a_vocabulary_and_their_gradients_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "LOGIT_BLOCK", 64)  # several blocks, the last one shorter
    torch.manual_seed(0)
    logits, targets, weights = 9 * torch.randn(7, 30), torch.randint(0, 30, (7,)), torch.rand(7)
    exact, ours = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected, got = cross_entropy(exact, targets, reduction="none"), cpu_kernels.cross_entropy(ours, targets)
    torch.testing.assert_close(got, expected)
    (expected * weights).sum().backward()
    (got * weights).sum().backward()
    torch.testing.assert_close(ours.grad, exact.grad)
    torch.testing.assert_close(ours, logits, rtol=0, atol=0)  # others may need them still


def test_a_token_that_is_almost_sure_still_has_its_gradient() -> None:
    logits = torch.tensor([[9.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    cpu_kernels.cross_entropy(logits, torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.float(), torch.tensor([[-1.234e-4, 1.234e-4]]), rtol=0.01, atol=0)


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
def test_norms_and_their_gradients_are_transformers(
    precision: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_kernels, "NORM_BLOCK", 64)  # several blocks, the last one shorter
    torch.manual_seed(0)
    x, gain, d_out = 3 * torch.randn(2, 5, 3, 16), torch.rand(16), torch.randn(2, 5, 3, 16)
    results = []
    for dtype, kind in ((torch.float32, Qwen3RMSNorm), (precision, cpu_kernels.BlockNorm)):
        norm, given = kind(16).to(dtype), x.to(dtype).transpose(1, 2).requires_grad_()
        with torch.no_grad():
            norm.weight.copy_(gain)
        out = norm(given)
        out.backward(d_out.to(dtype).transpose(1, 2))
        results.append((out, given.grad, norm.weight.grad))
    for expected, got in zip(*results, strict=True):
        assert float(((got.float() - expected).norm() / expected.norm()).detach()) < tolerance


def test_a_model_gives_the_losses_that_transformers_gives_with_and_without_padding() -> None:
    plain, model = copy.deepcopy(small_model()), copy.deepcopy(small_model())
    cpu_kernels.use_kernels(model)
    assert isinstance(model.model.norm, cpu_kernels.BlockNorm)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (3, 71)))
    positions = torch.arange(70).remainder(30).expand(3, -1)  # documents end after 30 tokens
    for more in ({}, {"positions": positions}):
        torch.testing.assert_close(token_losses(model, ids, **more), token_losses(plain, ids, **more))
    mask = torch.ones_like(ids)
    mask[1, 40:] = 0
    got, expected = (m(input_ids=ids, attention_mask=mask).logits[mask == 1] for m in (model, plain))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_models_of_other_families_give_the_losses_that_transformers_gives(kind: str, tmp_path: Path) -> None:
    folder = foreign_model(tmp_path, kind).local("model")
    plain, model = (AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
    cpu_kernels.use_kernels(model)
    assert sum(isinstance(module, cpu_kernels.BlockNorm) for module in model.modules()) == 5
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, 390, (2, 70)))
    torch.testing.assert_close(token_losses(model, ids), token_losses(plain, ids), atol=2e-5, rtol=1e-4)


def test_a_family_whose_attention_may_differ_keeps_its_own() -> None:
    config = AutoConfig.for_model(
        "gemma2",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    model = AutoModelForCausalLM.from_config(config)
    before = model.config._attn_implementation
    cpu_kernels.use_kernels(model)
    assert model.config._attn_implementation == before


def test_a_saved_model_does_not_ask_for_our_kernels(tmp_path: object) -> None:
    model = copy.deepcopy(small_model())
    cpu_kernels.use_kernels(model)
    model.save_pretrained(str(tmp_path))
    opened = type(model).from_pretrained(str(tmp_path))
    assert cpu_kernels.ATTENTION not in (opened.config._attn_implementation, model.config.to_json_string())
    ids = torch.arange(20)[None]
    torch.testing.assert_close(opened(ids).logits, model(ids).logits)
