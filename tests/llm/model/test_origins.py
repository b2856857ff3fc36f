"""Models without values: what each parameter becomes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from headwater.llm.model.build import initialise
from headwater.llm.model.origins import Drawn, blank, filled, fresh
from headwater.llm.model.shape import ModelConfig, hf_config
from tests.llm.chat_tokenizer import chat_tokenizer

SHAPE = ModelConfig(depth=2, width=128, context=64, tie_embeddings=False)


def config(**changed: Any) -> Any:
    tokenizer = chat_tokenizer()
    return hf_config(SHAPE.model_copy(update=changed), len(tokenizer), tokenizer)


def test_fresh_weights_have_the_standard_deviations_of_their_kind() -> None:
    shape = config()
    model = initialise(shape, 0)
    scaled = 0.02 / 2  # 1 / sqrt(2 layers × 2)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert bool((parameter == 1).all()), name
            continue
        expected = scaled if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
        rows = torch.arange(len(parameter)) != (shape.pad_token_id if "embed" in name else -1)
        assert float(parameter[rows].std()) == pytest.approx(expected, rel=0.03), name
        assert abs(float(parameter[rows].mean())) < expected / 20, name
    table: Any = model.get_input_embeddings()  # type: ignore[operator]
    assert not table.weight[shape.pad_token_id].any() and table.weight[shape.pad_token_id + 1].any()


def test_zero_outputs_start_the_residual_stream_with_nothing() -> None:
    model = initialise(config(), 0, zero_outputs=True)
    zero = {name for name, parameter in model.named_parameters() if not parameter.any()}
    assert {name.rpartition("layers.")[2] for name in zero} == {
        f"{layer}.{matrix}.weight" for layer in (0, 1) for matrix in ("self_attn.o_proj", "mlp.down_proj")
    }


def test_a_seed_has_its_weights_whatever_was_drawn_before() -> None:
    first = initialise(config(), 1).state_dict()
    torch.rand(3)
    again, other = initialise(config(), 1).state_dict(), initialise(config(), 2).state_dict()
    assert all(torch.equal(values, again[name]) for name, values in first.items())
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    assert not torch.equal(first["lm_head.weight"], first["model.embed_tokens.weight"])


def test_tied_embeddings_stay_one_parameter() -> None:
    model: Any = filled(fresh(config(tie_embeddings=True), 0))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_part_of_a_parameter_is_that_part_also_in_16_bits() -> None:
    origin = Drawn(0, "x", 0.02, (40_000, 40_010))
    whole, part = torch.empty(50_000), torch.empty(20_011, dtype=torch.bfloat16)
    origin.read(0, whole)
    origin.read(20_003, part)
    assert torch.equal(part, whole[20_003:40_014].bfloat16())
    assert not whole[40_000:40_010].any() and whole[39_999] and whole[40_010]


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama", "mistral", "gemma2", "phi3"])
def test_a_model_without_values_has_its_buffers(kind: str) -> None:
    shape = AutoConfig.for_model(
        kind, vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    whole = AutoModelForCausalLM.from_config(shape)
    without = blank(lambda: AutoModelForCausalLM.from_config(shape))
    assert all(parameter.is_meta for parameter in without.parameters())
    expected = dict(whole.named_buffers())
    assert expected and expected.keys() == dict(without.named_buffers()).keys()
    assert all(torch.equal(values, expected[name]) for name, values in without.named_buffers())
