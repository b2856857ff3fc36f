"""A trained model is written in parts, with its fp32 weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from headwater.cluster.storage.artifact import Folder
from headwater.llm.model import build
from headwater.llm.model.adapters import LoraConfig
from headwater.llm.training import export
from tests.llm.models import save_model, small_model
from tests.llm.ranks import on_ranks
from tests.llm.training.state.test_birth import engine_of, unborn, whole

WAYS: dict[str, dict[str, Any]] = {
    "replicated": {"zero": {"stage": 0}, "precision": "bf16"},
    "optimizer": {"zero": {"stage": 1}, "optimizer": "muon"},
    "parameters": {"zero": {"stage": 3}, "precision": "bf16"},
    "layers": {"zero": {"stage": 1}, "tensor_parallel": 2, "precision": "bf16"},
}
SMALL_FILES = 100_000


def written(engine: Any, folder: Path, **how: Any) -> None:
    mine = dist.get_rank() == 0
    if mine:
        folder.mkdir()
    export.save_model(engine, folder if mine else None, **how)
    dist.barrier()


def exported(folder: Path, ways: Sequence[str]) -> None:
    export.PART = 10_000  # each matrix in several parts
    for name in ways:
        written(engine_of(unborn(), **WAYS[name]), folder / name, max_shard_bytes=SMALL_FILES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    on_ranks(2, exported, folder, ["replicated", "optimizer", "parameters"])
    on_ranks(2, exported, folder, ["layers"])
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_the_files_have_the_fp32_weights_and_transformers_opens_them(folders: Path, way: str) -> None:
    expected = whole()
    files = {path.name: load_file(path) for path in (folders / way).glob("*.safetensors")}
    assert sum(len(tensors) for tensors in files.values()) == len(expected)
    for tensors in files.values():
        assert len(tensors) == 1 or sum(4 * values.numel() for values in tensors.values()) <= SMALL_FILES
        assert all(torch.equal(values, expected[name]) for name, values in tensors.items())
    index = json.loads((folders / way / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(4 * values.numel() for values in expected.values())
    assert index["weight_map"] == {name: file for file, tensors in files.items() for name in tensors}
    opened: Any = AutoModelForCausalLM.from_pretrained(folders / way)
    assert opened.dtype == torch.float32 and type(opened).__name__ == "Qwen3ForCausalLM"
    assert opened.lm_head.weight is opened.model.embed_tokens.weight
    assert all(torch.equal(values, expected[name]) for name, values in opened.named_parameters())
    assert opened.generation_config.eos_token_id == opened.config.eos_token_id


def with_adapters_and_heads(folder: Path, base: Folder) -> None:
    engine = engine_of(build.stored_model(base), zero={"stage": 3}, lora=LoraConfig(rank=2))
    with torch.no_grad():
        for parameter in engine.module.parameters():
            if parameter.requires_grad:
                parameter.ds_tensor.fill_(0.5)
    written(engine, folder / "adapted")
    written(engine_of(build.critic(base), zero={"stage": 2}), folder / "critic")
    written(engine_of(build.new_reward_model(base), zero={"stage": 3}), folder / "reward")


def test_adapters_are_merged_and_a_value_head_stays_behind(tmp_path: Path) -> None:
    base = save_model(tmp_path, small_model(3))
    on_ranks(2, with_adapters_and_heads, tmp_path, base)
    files = {
        name: load_file(tmp_path / name / "model.safetensors") for name in ("adapted", "critic", "reward")
    }
    scaling, rank = 32.0 / 2, 2
    for name, values in small_model(3).named_parameters():
        added = scaling * rank * 0.25 if "proj" in name else 0.0
        torch.testing.assert_close(files["adapted"].pop(name), values.detach() + added)
        assert torch.equal(files["critic"].pop(name), values)
        assert torch.equal(files["reward"].pop(name), values)
    assert not files["adapted"] and not files["critic"] and list(files["reward"]) == ["score.weight"]
    assert (tmp_path / "adapted" / "adapter" / "adapter_model.safetensors").is_file()
    saved = json.loads((tmp_path / "reward" / "config.json").read_text())
    assert saved["architectures"] == ["Qwen3ForSequenceClassification"]
    assert len(saved["id2label"]) == 1
