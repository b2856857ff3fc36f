"""The architectures of a fresh model: their facts are those of transformers' models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.tokens.packing import document_positions
from headwater.llm.model.architecture import ARCHITECTURES, NAMES, Name
from headwater.llm.model.build import initialise
from headwater.llm.model.coverage import BY_COLUMNS, BY_ROWS, tensor_fault, uncovered
from headwater.llm.model.cpu_kernels import use_kernels
from headwater.llm.model.files.gguf import write_gguf
from headwater.llm.model.origins import blank
from headwater.llm.model.shape import ModelConfig, flops_per_token, hf_config, parameter_count, shape_of
from headwater.llm.planning.scaling import Scaling, ScalingConfig
from headwater.llm.stages.base import Base, BaseConfig
from headwater.llm.stages.fresh import FreshConfig
from headwater.llm.stages.pretrain import Pretrain, PretrainConfig
from headwater.recipe import parse
from tests.headwater.sections import CHAIN
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import save_model

RECIPE = {name: section for name, section in CHAIN.items() if name not in ("reward", "rl", "evaluate")} | {
    "name": "x",
    "acquire": {"sources": [{"kind": "folder", "paths": ["pages"]}]},
}
WINDOW = 6
CHOICES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3 with windows": {"sliding_window": WINDOW, "mlp_ratio": 2.5},
    "llama": {"architecture": "llama", "head_width": 32, "tie_embeddings": False},
    "gemma2": {"architecture": "gemma2", "head_width": 32, "sliding_window": WINDOW},
    "gemma3": {
        "architecture": "gemma3",
        "sliding_window": WINDOW,
        "layer_types": ["sliding", "sliding", "full"],
        "logit_softcap": 20.0,
        "tie_embeddings": False,
    },
    "gemma3 without windows": {"architecture": "gemma3"},
    "nanochat": {"architecture": "nanochat", "tie_embeddings": False},
}


def shape(choice: str, **more: Any) -> ModelConfig:
    return ModelConfig.model_validate({"depth": 3, "width": 64, "context": 64} | CHOICES[choice] | more)


def config_of(choice: str, **more: Any) -> Any:
    return hf_config(shape(choice, **more), len(chat_tokenizer()), chat_tokenizer())


def empty(config: Any) -> Any:
    with torch.device("meta"):
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)


def loud(choice: str) -> Any:
    """A model with weights large enough that its positions differ."""
    model: Any = initialise(config_of(choice), 0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


@pytest.mark.parametrize("choice", CHOICES)
def test_parameters_and_flops_are_those_that_the_model_itself_counts(choice: str) -> None:
    config, length = config_of(choice), 4 * WINDOW
    own = shape_of(shape(choice), len(chat_tokenizer()))
    model = empty(config)
    assert parameter_count(config) == parameter_count(own) == sum(p.numel() for p in model.parameters())
    model.set_attn_implementation("eager")  # torch does not count fused attention on a device without values
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    mask = torch.zeros(1, 1, length, length, device="meta")
    kinds = set(own.layer_types)
    with FlopCounterMode(display=False) as counted:
        given = mask if choice in ("llama", "nanochat") else dict.fromkeys(kinds, mask)
        model(input_ids=ids, attention_mask=given, use_cache=False).logits.sum().backward()
    gains = 6 * sum(p.numel() for p in model.parameters() if p.ndim < 2)  # counted, but no matrices
    sliding = own.layer_types.count("sliding_attention")
    masked = 12 * own.num_attention_heads * own.head_dim * sliding * (length - WINDOW)
    expected = counted.get_total_flops() / length + gains - masked
    assert flops_per_token(config, length) == flops_per_token(own, length) == expected


@pytest.mark.parametrize("name", NAMES)
def test_what_is_known_of_an_architecture_is_so_in_transformers(name: Name) -> None:
    own, model = ARCHITECTURES[name], empty(config_of(name))
    matrices = {path.rpartition(".")[2] for path, layer in model.named_modules() if "layers.0" in path}
    assert set(own.matrices) <= matrices
    assert (not tensor_fault(model)) == ({*BY_ROWS, *BY_COLUMNS} <= matrices)
    assert not own.shares_layers or not tensor_fault(model)
    assert own.scores == (own.model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    assert own.windows == hasattr(CONFIG_MAPPING[own.model_type](), "sliding_window")
    assert (own.softcap is not None) == hasattr(model.config, "final_logit_softcapping")


@pytest.mark.parametrize("choice", CHOICES)
def test_gains_and_buffers_start_as_transformers_starts_them(choice: str) -> None:
    config = config_of(choice)
    ours, theirs = initialise(config, 0), MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).float()
    expected = dict(theirs.named_parameters())
    for name, values in ours.named_parameters():
        if values.ndim < 2:
            torch.testing.assert_close(values, expected[name])
        elif name.endswith(("o_proj.weight", "down_proj.weight", "fc2.weight")):
            assert float(values.std()) == pytest.approx(0.02 / 6**0.5, rel=0.1)
    buffers = dict(blank(lambda: MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)).named_buffers())
    assert buffers.keys() == dict(theirs.named_buffers()).keys()
    for name, values in theirs.named_buffers():
        torch.testing.assert_close(buffers[name], values)


@torch.no_grad()
@pytest.mark.parametrize("choice", CHOICES)
def test_a_packed_document_is_read_as_if_alone_and_each_token_sees_its_window(choice: str) -> None:
    model, end = loud(choice), 1
    row = torch.tensor([[end, *range(10, 20), end, *range(30, 45)]])
    positions = torch.from_numpy(document_positions(row.numpy(), end))
    packed = model(input_ids=row, position_ids=positions, use_cache=False).logits[0]
    alone = model(input_ids=row[:, 11:], use_cache=False).logits[0]
    torch.testing.assert_close(packed[11:], alone, atol=2e-5, rtol=1e-4)
    changed = row[:, 11:].clone()
    changed[0, 1] = 99
    moved = (model(input_ids=changed, use_cache=False).logits[0, -1] - alone[-1]).abs().max()
    assert moved > 1e-3  # at a distance of more than the window, through a layer that attends to all
    use_kernels(model)
    again = model(input_ids=row, position_ids=positions, use_cache=False).logits[0]
    torch.testing.assert_close(again, packed, atol=2e-5, rtol=1e-4)
    whole = model(input_ids=row[:, 11:], use_cache=False).logits[0]
    torch.testing.assert_close(whole, alone, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_layers_that_all_slide_do_not_see_beyond_their_windows() -> None:
    only = {"layer_types": ["sliding"], "depth": 2}
    ids = torch.arange(10, 34)[None]
    for choice in ("qwen3 with windows", "gemma2", "gemma3"):
        model: Any = initialise(config_of(choice, **only), 0).eval()
        use_kernels(model)
        before = model(input_ids=ids, use_cache=False).logits[0]
        changed = ids.clone()
        changed[0, 0] = 99
        after = model(input_ids=changed, use_cache=False).logits[0]
        reach = 2 * (WINDOW - 1)  # of the first token, through two layers
        assert not torch.equal(after[reach], before[reach])
        torch.testing.assert_close(after[reach + 1 :], before[reach + 1 :], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"architecture": "llama", "sliding_window": 8}, "of qwen3, gemma2, gemma3"),
        ({"architecture": "nanochat", "sliding_window": 8}, "nanochat has no sliding windows"),
        ({"logit_softcap": 30}, "of gemma2, gemma3, nanochat"),
        ({"layer_types": ["full"]}, "`layer_types` needs a `sliding_window`"),
        ({"width": 192, "head_width": 128}, r"choose a multiple of `head_width` \(128\)"),
        ({"architecture": "mamba"}, "'qwen3', 'llama', 'gemma2', 'gemma3' or 'nanochat'"),
    ],
)
def test_what_an_architecture_lacks_is_refused_with_those_that_have_it(
    settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        ModelConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"pretrain": {"tensor_parallel": 2}},
            "the matrices of nanochat are not split",
        ),
        ({"pretrain": {"sequence_parallel": 2}}, "the attention of nanochat is not exchanged"),
        ({"reward": {}}, "no reward model of nanochat: choose an `architecture` of qwen3, llama, gemma2"),
        (
            {"sft": {"lora": {}}},
            r"`sft\.lora\.targets`: nanochat has no down_proj, gate_proj, up_proj; choose",
        ),
    ],
)
def test_features_that_do_not_cover_an_architecture_are_refused_when_the_recipe_is_read(
    settings: dict[str, Any], told: str
) -> None:
    pretrain = {"model": {"architecture": "nanochat"}} | settings.get("pretrain", {})
    with pytest.raises(HeadwaterError, match=told):
        parse(RECIPE | settings | {"pretrain": pretrain}, "test")


def test_rows_with_windows_cannot_be_shared() -> None:
    pretrain = {"model": {"sliding_window": 8}, "sequence_parallel": 2}
    with pytest.raises(HeadwaterError, match="a sliding window cannot be split"):
        parse(RECIPE | {"pretrain": pretrain}, "test")


def test_a_gguf_file_is_refused_for_windows_and_for_architectures_that_it_does_not_know(
    tmp_path: Path,
) -> None:
    for choice, told in (
        ("qwen3 with windows", "without the sliding windows"),
        ("gemma2", "Gemma2ForCausalLM"),
    ):
        model = initialise(config_of(choice), 0)
        folder = save_model(tmp_path / choice, model).local()
        with pytest.raises(HeadwaterError, match=told):
            write_gguf(folder, tmp_path / "model.gguf", name="x")
        assert "export to GGUF" in uncovered(model)[0]


def test_artifacts_made_before_the_settings_existed_keep_their_keys() -> None:
    """The keys are those of commit 4397eb0."""
    assert Pretrain(PretrainConfig()).key({}, {}) == "faf95b6d5621ab19"
    changed = PretrainConfig(model=ModelConfig(depth=7, width=128), optimizer="muon")
    assert Pretrain(changed).key({}, {}) == "b228256071b6a665"
    assert Base(BaseConfig(fresh=FreshConfig(task="arithmetic"))).key({}, {}) == "01a19ca292c81ce7"
    law = ScalingConfig(pretrain=PretrainConfig(), steps=(1, 2))
    assert Scaling(law).key({}, {}) == "bc2707661c8657aa"
    for settings in CHOICES.values():
        if settings:
            other = PretrainConfig(model=ModelConfig.model_validate(settings))
            assert Pretrain(other).key({}, {}) != "faf95b6d5621ab19"
            assert PretrainConfig.model_validate(other.model_dump(mode="json")) == other


def test_small_models_for_the_scaling_law_have_whole_heads() -> None:
    model = ModelConfig(depth=8, width=512, head_width=128, architecture="llama")
    for depth in range(1, 9):
        small = ScalingConfig(pretrain=PretrainConfig(model=model), steps=(1, 2)).small(depth, 1).model
        found = shape_of(small, 400)
        assert found.num_attention_heads * 128 == found.hidden_size >= 64 * depth
    assert shape_of(ModelConfig(depth=3, head_width=128), 400).hidden_size == 256
