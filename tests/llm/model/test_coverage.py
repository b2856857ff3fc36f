"""What each family of models can use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact, Manifest
from headwater.llm.model.adapters import LoraConfig, with_adapters
from headwater.llm.model.coverage import check_tensor_parallel, uncovered
from headwater.llm.stages.models import check_adapters
from headwater.llm.training.config import FineTuneConfig
from headwater.llm.training.engine import skipped_adapters


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


def test_adapters_skip_no_matrix_that_a_recipe_names_and_say_which_defaults_they_skip(tmp_path: Path) -> None:
    """A stored base is asked before anything starts, from its configuration alone."""
    phi, named = empty("phi"), LoraConfig(targets=("q_proj", "gate_proj"))
    said = skipped_adapters(phi, FineTuneConfig(lora=LoraConfig()))
    assert "has no o_proj, gate_proj, up_proj, down_proj: adapters go to the other" in said
    assert skipped_adapters(empty("llama"), FineTuneConfig(lora=LoraConfig())) == ""
    base = Artifact(str(tmp_path), "base", "key")
    base.write_json("model/config.json", phi.config.to_dict())
    check_adapters({"base": base}, named)  # not finished
    base.finish(Manifest(stage="base", key="key", stage_version=1, config={}, inputs={}, metrics={}))
    check_adapters({"base": base}, LoraConfig())
    with pytest.raises(HeadwaterError, match=r"\(phi\) has no gate_proj .*dense, fc1, fc2, k_proj"):
        check_adapters({"base": base}, named)
    with pytest.raises(HeadwaterError, match=r"lora\.layers: the model has 1 layers"):
        check_adapters({"base": base}, LoraConfig(layers=2))
    with pytest.raises(HeadwaterError, match="cannot add adapters to this model"):
        with_adapters(empty("gpt2"), LoraConfig(), 0)
