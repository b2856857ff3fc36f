"""Models that are read by ranges of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.model import build
from headwater.llm.model.origins import filled, origins
from tests.llm.models import foreign_model, save_model, small_model


def same(first: torch.nn.Module, second: torch.nn.Module) -> None:
    expected = dict(second.named_parameters())
    assert expected.keys() == dict(first.named_parameters()).keys()
    for name, parameter in first.named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, expected[name]), name


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_another_family_is_read_as_transformers_reads_it(tmp_path: Path, kind: str) -> None:
    folder = Folder(foreign_model(tmp_path, kind), "model")
    model: Any = build.stored_model(folder)
    whole: Any = build.saved_model(folder)
    assert all(parameter.is_meta for parameter in model.parameters())
    same(filled(model), whole)
    assert model.config.to_dict() | {"_name_or_path": ""} == whole.config.to_dict() | {"_name_or_path": ""}
    assert model.generation_config.to_dict() == whole.generation_config.to_dict()
    assert not model.training
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, whole(ids).logits)


def test_several_files_in_16_bits_are_read_too(tmp_path: Path) -> None:
    small: Any = small_model()
    AutoModelForCausalLM.from_config(small.config).bfloat16().save_pretrained(
        tmp_path / "model", max_shard_size="100KB"
    )
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    folder = Folder(Artifact(str(tmp_path)), "model")
    same(filled(build.stored_model(folder)), build.saved_model(folder))


def test_a_part_is_read_without_the_rest(tmp_path: Path) -> None:
    folder = save_model(tmp_path)
    model = build.stored_model(folder)
    read: list[int] = []
    found: Any = origins(model)["model.embed_tokens.weight"]
    table: Any = small_model().get_input_embeddings()  # type: ignore[operator]
    expected = table.weight.detach().view(-1)[1_001:3_004]
    read_from = found.file.read
    found.file.read = lambda position, buffer: (read.append(buffer.numel()), read_from(position, buffer))
    into = torch.empty(2_003, dtype=torch.bfloat16)
    found.read(1_001, into)
    assert torch.equal(into, expected.bfloat16()) and read == [2_003 * 4]


def test_what_the_files_lack_or_name_otherwise_is_read_as_a_whole(tmp_path: Path) -> None:
    folder = save_model(tmp_path)
    classifier = build.new_reward_model(folder)
    assert all(parameter.is_meta for parameter in classifier.parameters())
    kind = AutoConfig.for_model(
        "mixtral", vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, head_dim=16,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=2, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(kind).save_pretrained(tmp_path / "experts")
    experts = Folder(Artifact(str(tmp_path)), "experts")
    model = build.stored_model(experts)
    assert not origins(model)
    same(model, build.saved_model(experts))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda data: data[:-1], "bytes in place of"),
        (lambda data: b"\xff" * 8 + data[8:], "not a safetensors file"),
        (lambda data: data[:8] + b"!" + data[9:], "no valid header"),
        (lambda data: data[:5], "not a safetensors file"),
    ],
)
def test_a_file_that_is_no_safetensors_file_is_named(tmp_path: Path, change: Any, what: str) -> None:
    folder = save_model(tmp_path)
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(HeadwaterError, match=rf"model\.safetensors: the file .*{what}"):
        build.stored_model(folder)


def test_a_model_in_s3_is_read_there(s3_server: str, tmp_path: Path) -> None:
    save_model(tmp_path)
    there = Artifact("s3://stored/artifact")
    for path in (tmp_path / "model").iterdir():
        there.write_bytes(f"model/{path.name}", path.read_bytes())
    same(filled(build.stored_model(Folder(there, "model"))), small_model())
