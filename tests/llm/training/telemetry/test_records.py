"""Records of steps: consistent after an interruption, on disk and in S3; MFU by its formula."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, Qwen3ForCausalLM, Qwen3ForSequenceClassification

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.hardware import peak
from headwater.llm.model.adapters import LoraConfig, with_adapters
from headwater.llm.model.shape import ModelConfig, flops_per_token, hf_config
from headwater.llm.training.config import TrainConfig
from headwater.llm.training.step_flops import batch_flops
from headwater.llm.training.telemetry import records
from headwater.llm.training.telemetry.records import RunRecorder, TrackConfig, read_history
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import small_model


class Silent:
    report = SimpleNamespace(remote=lambda *_: None)


def record(step: int, loss: float = 2.5) -> dict[str, float]:
    return {"step": step, "loss": loss, "tokens_per_second": 100.0}


def recorder(output: Artifact, history: list[dict[str, float]]) -> RunRecorder:
    return RunRecorder(output, TrackConfig(), "pretrain", history, Silent())


def interrupted_run(output: Artifact) -> None:
    """Three steps and an abrupt end; then from step 2 on, two more."""
    first = recorder(output, [])
    for step in range(3):
        first.add(record(step))
    first.close(failed=True)
    with recorder(output, read_history(output)[:2]) as second:
        second.add(record(2, math.nan))
        second.add(record(3, 1.5))


def test_a_repeated_step_has_one_record(tmp_path: Path) -> None:
    output = Artifact(str(tmp_path))
    interrupted_run(output)
    kept = read_history(output)
    assert [line["step"] for line in kept] == [0, 1, 2, 3]
    assert math.isnan(kept[2]["loss"])
    assert "NaN" not in (tmp_path / records.HISTORY).read_text()
    assert records.summary(kept)["final_loss"] == 1.5


def test_records_and_event_files_on_s3_equal_those_on_disk(s3_server: str) -> None:
    output = Artifact("s3://corpus/interrupted")
    interrupted_run(output)
    assert [line["step"] for line in read_history(output)] == [0, 1, 2, 3]
    assert len(output.files(records.TENSORBOARD)) == 2


def test_records_can_be_read_while_training_goes_on(tmp_path: Path) -> None:
    output = Artifact(str(tmp_path))
    with recorder(output, []) as running:
        running.add(record(0))
        assert len(read_history(output)) == 1


def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    interrupted_run(Artifact(str(tmp_path)))
    first, second = map(events, sorted((tmp_path / records.TENSORBOARD).iterdir()))
    assert [(e.step, e.summary.value[0].simple_value) for e in first if is_loss(e)] == [
        (s, 2.5) for s in range(3)
    ]
    # The session that starts at step 2 has TensorBoard drop what older files say of step 2 and later.
    starts = [event for event in second if event.HasField("session_log")]
    assert [(event.step, event.session_log.status) for event in starts] == [(2, 1)]
    assert [event.step for event in second if is_loss(event)] == [3]  # step 2 has no loss


def events(path: Path) -> list[Any]:
    """The events of a file: length, checksum, data, checksum (TFRecord)."""
    from tensorboardX.proto.event_pb2 import Event

    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def is_loss(event: Any) -> bool:
    return any(value.tag == "loss" for value in event.summary.value)


def test_a_tracker_that_is_not_installed_is_refused_by_name() -> None:
    with pytest.raises(HeadwaterError, match=r"track\.wandb: the package wandb is not installed"):
        records.check_packages(TrackConfig(wandb="project"))


def test_flops_are_counted_for_what_the_model_sees_of_rows_and_pairs() -> None:
    model: Any = small_model()
    rows, pairs = np.zeros((4, 33), np.int64), np.zeros((4, 32), np.int64)
    expected = 4 * 32 * flops_per_token(model.config, 32)
    assert batch_flops(model, {"ids": rows, "mask": rows}) == expected
    assert batch_flops(model, {"chosen": pairs, "rejected": pairs}) == 2 * expected
    assert batch_flops(torch.nn.Linear(2, 2), {"ids": rows}) == 0.0


def test_the_flops_of_answers_to_one_prompt_count_it_once_and_no_padding() -> None:
    model: Any = small_model()
    prompt, other = [11, 12, 13, 14], [11, 12, 9]
    ids = np.array([[*prompt, 20, 21, 1], [*prompt, 30, 1, 1], [*other, 20, 1, 1, 1], [*other, 1, 1, 1, 1]])
    mask = np.array([[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0, 0], [0] * 7])
    answers = {"ids": ids, "mask": mask, "advantages": np.ones(4)}  # the last one was not judged
    assert batch_flops(model, answers) == 5 * flops_per_token(model.config, 5) + 3 * flops_per_token(
        model.config, 3
    )
    pair = {"chosen": ids[:1], "chosen_mask": mask[:1], "rejected": ids[1:2], "rejected_mask": mask[1:2]}
    assert batch_flops(model, pair) == 7 * flops_per_token(model.config, 6)


def counted_flops(model: Any, length: int) -> int:
    """FLOPs of the matrix products of a forward and a backward pass, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(2 * length).view(2, length), use_cache=False).logits.sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    "kind", ["all weights", "adapters", "last adapters", "reward model", "reward model's adapters"]
)
def test_the_flops_are_those_that_torch_counts(kind: str) -> None:
    tokenizer, length = chat_tokenizer(), 24
    config: Any = hf_config(ModelConfig(depth=12, width=128, context=64), len(tokenizer), tokenizer)
    config.num_labels, config._attn_implementation = 1, "eager"
    model: Any = (Qwen3ForSequenceClassification if "reward" in kind else Qwen3ForCausalLM)(config)
    if "adapters" in kind:
        model = with_adapters(model, LoraConfig(rank=8, layers=5 if "last" in kind else None), 0)
    rows = np.zeros((2, length), np.int64)
    assert batch_flops(model, {"chosen": rows}) == pytest.approx(counted_flops(model, length), rel=0.02)


def test_a_step_with_adapters_costs_two_thirds_and_the_adapters_own() -> None:
    # 135 M parameters, 28.3 M of them in the tied embedding, which is the head; 30 layers, 9 heads of 64
    sizes = {"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    smollm2 = LlamaConfig(**sizes, **heads)
    attention = 12 * 30 * 9 * 64 * 320
    assert flops_per_token(smollm2, 320) == 6 * 134_515_008 + attention
    assert flops_per_token(smollm2, 320, adapters=4_884_480) == 4 * 134_515_008 + 6 * 4_884_480 + attention
    assert flops_per_token(smollm2, 320, head=False) == 6 * (134_515_008 - 49_152 * 576) + attention


def test_the_peak_of_a_gpu_is_the_data_sheets_and_of_a_cpu_measured() -> None:
    assert peak.known("NVIDIA H100 80GB HBM3") == 989.5e12
    assert peak.known("NVIDIA H100 PCIe") == 756e12
    assert peak.known("NVIDIA L40S") == 362e12
    assert peak.known("NVIDIA L4") == 121e12
    assert peak.known("somebody's accelerator") is None
    side = 256
    measured = peak.measured(torch.float32, torch.device("cpu"), side)
    assert 1e8 < measured < 1e14


def test_tracking_and_checkpoint_settings_do_not_change_an_artifacts_key() -> None:
    from headwater.llm.stages.pretrain import Pretrain, PretrainConfig

    tokens = {"tokenizer": "t", "tokenize": "r"}
    others = {"track": {"tensorboard": False}, "keep_checkpoints": 5, "keep_best": True, "on_nan": "skip"}
    assert Pretrain(PretrainConfig()).key(tokens, {}) == Pretrain(PretrainConfig(**others)).key(tokens, {})
    assert TrainConfig().on_nan == "stop"
