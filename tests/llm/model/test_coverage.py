"""What each family of models can use."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from headwater.cluster.errors import HeadwaterError
from headwater.llm.model.coverage import check_tensor_parallel, uncovered


def empty(kind: str) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, num_hidden_layers=1))


def test_llama_and_qwen3_lack_nothing() -> None:
    for kind in ("llama", "qwen3"):
        model = empty(kind)
        assert uncovered(model) == []
        check_tensor_parallel(model)


def test_what_a_family_lacks_is_named() -> None:
    (biases,) = uncovered(empty("qwen2"))
    assert biases == "tensor_parallel: the biases of q_proj, k_proj, v_proj cannot be split"
    export, tensor, lora, kernels = uncovered(empty("gpt2"))
    assert "not GPT2LMHeadModel" in export and "has no layers q_proj" in tensor
    assert "name some of c_attn, c_fc, c_proj" in lora and kernels.startswith("the CPU kernels: gpt2")


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_layers_that_cannot_be_shared_are_refused(kind: str) -> None:
    with pytest.raises(HeadwaterError, match=r"^tensor_parallel: "):
        check_tensor_parallel(empty(kind))
