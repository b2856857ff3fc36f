"""Failures during a run: torn checkpoints, NaN losses, hung ranks, preemption notices.

The ranks are processes of their own without Ray, started twice for all of this file: once to be killed in
the middle of a checkpoint, and once for all the rest.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.model import adapters
from headwater.llm.training import zero
from headwater.llm.training.health import preemption
from headwater.llm.training.job import Worker
from headwater.llm.training.loop import train_step
from headwater.llm.training.losses.objectives import NextToken
from headwater.llm.training.state import elements
from headwater.llm.training.telemetry.records import read_history
from headwater.llm.training.zero_config import ZeroConfig
from tests.llm.jobs import run_job
from tests.llm.models import save_model
from tests.llm.random_rows import Rows
from tests.llm.ranks import on_ranks
from tests.llm.training.parallel.test_sharding import CASES, make, whole

STEPS = 6
BAD = 3


class Chancy(Rows):
    """Rows of which every generator of chance hides some tokens: only with its state they come again."""

    def batch(self, step: int) -> dict[str, np.ndarray]:
        rows = super().batch(step)
        mask = rows["mask"].copy()
        mask[:, 1 + random.randrange(7)] = 0
        mask[:, 1 + np.random.randint(7)] = 0
        mask[:, 1 + int(torch.randint(7, ()))] = 0
        return rows | {"mask": mask}


class Poisoned(Rows):
    """One rank's rows of one step are bad. `describe` names the documents of a step."""

    def batch(self, step: int) -> dict[str, np.ndarray]:
        rows = super().batch(step)
        bad = step == BAD and self.worker.rank == self.worker.world_size - 1
        return rows | {"bad": np.full(len(rows["ids"]), float(bad), np.float32)}

    def describe(self, step: int) -> list[str]:
        return [f"https://news.example/{row}" for row in self.plan.indices(step)]


class Spoilt(NextToken):
    """Of bad rows the loss is not a number; or only its gradient is not."""

    def __init__(self, gradient_only: bool = False) -> None:
        super().__init__()
        self.gradient_only = gradient_only

    def loss_sum(self, model: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        loss, extra = super().loss_sum(model, batch)
        if not batch["bad"].any():
            return loss, extra
        if self.gradient_only:
            return loss + (loss - loss.detach()).abs().sqrt(), extra  # 0, with a slope of 0 times infinity
        return loss * math.nan, extra


class Ending(Chancy):
    def batch(self, step: int) -> dict[str, np.ndarray]:
        if step == 5:
            raise InterruptedError
        return super().batch(step)


class Over(Rows):
    """Of which no batch may be asked for."""

    def batch(self, step: int) -> dict[str, np.ndarray]:
        raise AssertionError(f"step {step} is made again")


class Sleepy(Rows):
    """Rank 1 stands still before step 2 until the screen (`trace`) says so of it."""

    def batch(self, step: int) -> dict[str, np.ndarray]:
        deadline = time.monotonic() + 60
        while step == 2 and self.worker.rank == 1 and time.monotonic() < deadline:
            if self.trace.exists() and "rank 1: in batch" in self.trace.read_text():
                break
            time.sleep(0.1)
        return super().batch(step)


class Told(Rows):
    def batch(self, step: int) -> dict[str, np.ndarray]:
        if step == 2 and self.worker.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(step)


def straight_through_then_killed(folder: Path) -> None:
    """On two ranks: a run without disturbance; one whose rank 1 dies with half a file of step 4 written."""
    run_job(folder / "undisturbed", Chancy(8), folder / "screen")
    write = elements._write_tensors

    def write_half(tensors: Any, stream: Any) -> int:
        if dist.get_rank() == 1 and stream.name.count("checkpoint_00000004"):
            stream.write(b"half")
            stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return write(tensors, stream)

    elements._write_tensors = write_half
    run_job(folder / "killed", Chancy(8), folder / "killed-screen")


def all_the_rest(folder: Path) -> None:
    for part in (gone_on_with, truncated, kept, full_disk, refused, policies, hung, told):
        part(folder)
        dist.barrier()


def gone_on_with(folder: Path) -> None:
    run_job(folder / "killed", Chancy(8), folder / "killed-screen")


def truncated(folder: Path) -> None:
    """A whole checkpoint of which a file has lost its end, as when a disk was full."""
    if dist.get_rank() == 0:
        shutil.copytree(folder / "undisturbed", folder / "truncated")
        (newest,) = (folder / "truncated/_scratch/train").glob("checkpoint_00000006_*")
        file = newest / "rank-00001-00000.safetensors"
        os.truncate(file, file.stat().st_size - 1)
    dist.barrier()
    run_job(folder / "truncated", Chancy(8), folder / "truncated-screen")


def kept(folder: Path) -> None:
    """The second evaluation is the best."""
    figures = iter([3.0, 1.0, 2.0, 4.0, 5.0, 6.0])
    if dist.get_rank() == 0:
        save_model(folder / "tokenizer")
    dist.barrier()
    run_job(
        folder / "kept",
        Rows(8),
        folder / "screen",
        lambda worker: {"figure": next(figures)},
        "figure",
        evaluate_every=1,
        keep_best=True,
        keep_checkpoints=1,
        background_checkpoints=False,
        zero=ZeroConfig(stage=3),
        tokenizer=Folder(Artifact(str(folder / "tokenizer")), "model"),
    )


def full_disk(folder: Path) -> None:
    write = elements.write

    def fails(*arguments: Any) -> int:
        if dist.get_rank() == 1:
            raise OSError(28, "No space left on device")
        return write(*arguments)

    elements.write = fails
    with pytest.raises(HeadwaterError) as refusal:
        run_job(folder / "full", Rows(8), folder / "screen")
    elements.write = write
    (folder / f"full-{dist.get_rank()}.txt").write_text(str(refusal.value))


def refused(folder: Path) -> None:
    """Every optimizer and stage, with a bad loss and with a bad gradient: weights and moments around it."""
    for (optimizer, stage), gradient_only in [(case, only) for case in CASES for only in (False, True)]:
        job, worker = make(optimizer, stage)
        job.source, job.objective = Poisoned(8), Spoilt(gradient_only)
        job.source.open(worker)
        train_step(job, worker, BAD - 1)
        before = state_of(worker)
        record = train_step(job, worker, BAD)
        assert record["skipped"] == 1.0
        assert math.isfinite(record["loss"]) == gradient_only
        after = state_of(worker)
        assert before.keys() == after.keys()
        for name, values in before.items():
            assert torch.equal(values, after[name]), (optimizer, stage, gradient_only, name)
        assert "skipped" not in train_step(job, worker, BAD + 1)
        changed = state_of(worker)
        assert not all(torch.equal(values, changed[name]) for name, values in before.items())


def state_of(worker: Worker) -> dict[str, torch.Tensor]:
    share: dict[str, torch.Tensor] = {}
    for piece in elements.pieces(worker.engine):
        share |= piece
    with zero.gathered(worker.engine) as module:
        share |= {f"model/{n}": w.clone() for n, w in adapters.whole_weights(module).items()}
    return share


def policies(folder: Path) -> None:
    bad = {"source": Poisoned(8), "objective": Spoilt()}
    for name in ("skip", "rollback"):
        run_job(folder / name, screen=folder / f"{name}-screen", on_nan=name, **bad)
    with pytest.raises(HeadwaterError) as refusal:
        run_job(folder / "stop", screen=folder / "screen", **bad)
    with pytest.raises(HeadwaterError):
        run_job(folder / "limit", screen=folder / "screen", on_nan="skip", nan_limit=0, **bad)
    if dist.get_rank() == 0:
        (folder / "stop.txt").write_text(str(refusal.value))


def hung(folder: Path) -> None:
    screen = folder / "hung-screen"
    run_job(folder / "hung", Sleepy(8, trace=str(screen)), screen, steps=3, collective_timeout_s=2)


def told(folder: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    preemption.heed_sigterm()
    run_job(folder / "told", Told(8), folder / "told-screen", checkpoint_every=100)
    signal.signal(signal.SIGTERM, before)
    preemption._received.clear()


def in_s3(folder: Path) -> None:
    """On one rank: a run that ends before its last step, gone on with, and one that does not end."""
    with pytest.raises(InterruptedError):
        run_job("s3://corpus/ended", Ending(8), folder / "screen")
    run_job("s3://corpus/ended", Chancy(8), folder / "screen")
    run_job(folder / "undisturbed", Chancy(8), folder / "screen")


def export_fails_once(folder: Path) -> None:
    """On one rank: an export whose tokenizer is not there, done again once it is; and one without mishap."""
    tokenizer, nothing = save_model(folder / "tokenizer"), Folder(Artifact(str(folder / "nothing")), "model")
    settings = {"checkpoint_every": 100, "ema_decay": 0.9}
    run_job(folder / "exported", Chancy(8), folder / "screen", tokenizer=tokenizer, **settings)
    with pytest.raises(HeadwaterError):
        run_job(folder / "failed", Chancy(8), folder / "screen", tokenizer=nothing, **settings)
    run_job(folder / "failed", Over(8), folder / "screen", tokenizer=tokenizer, **settings)


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interruptions")
    with pytest.raises(torch.multiprocessing.ProcessExitedException, match="SIGKILL"):
        on_ranks(2, straight_through_then_killed, folder)
    shutil.copytree(folder / "killed", folder / "killed-before")
    on_ranks(2, all_the_rest, folder)
    return folder


def history(folder: Path) -> list[dict[str, float]]:
    return read_history(Artifact(str(folder)))


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in history(folder)]


def checkpoints(folder: Path) -> list[int]:
    found = (folder / "_scratch/train").glob("checkpoint_*/whole.json")
    return sorted(json.loads(path.read_text())["step"] for path in found)


def test_a_run_killed_while_writing_a_checkpoint_resumes_from_the_previous_one_bit_for_bit(
    aftermath: Path,
) -> None:
    assert checkpoints(aftermath / "killed-before") == [2]
    assert list((aftermath / "killed-before").rglob("checkpoint_00000004_*"))  # it had begun
    assert losses(aftermath / "killed") == losses(aftermath / "undisturbed")
    assert len(set(losses(aftermath / "undisturbed"))) == STEPS
    assert was_said(aftermath / "killed-screen", "checkpoint_00000004_", "resuming from that of step 2")


def test_records_are_written_during_the_run_once_per_step(aftermath: Path) -> None:
    steps = [record["step"] for record in history(aftermath / "killed-before")]
    assert steps == list(range(len(steps)))
    assert len(steps) >= 4
    assert [record["step"] for record in history(aftermath / "killed")] == list(range(STEPS))


def test_a_truncated_checkpoint_is_skipped(aftermath: Path) -> None:
    assert was_said(aftermath / "truncated-screen", "is incomplete", "resuming from that of step 4")
    assert losses(aftermath / "truncated") == losses(aftermath / "undisturbed")


def test_only_the_newest_and_best_checkpoints_are_kept(aftermath: Path) -> None:
    assert checkpoints(aftermath / "undisturbed") == [4, 6]
    assert checkpoints(aftermath / "kept") == [2, 6]  # the best, which is no longer among the newest one
    assert len(list((aftermath / "kept/_scratch/train").iterdir())) == 2


def test_the_best_state_is_exported_beside_the_last(aftermath: Path) -> None:
    (best,) = (aftermath / "kept/_scratch/train").glob("checkpoint_00000002_*")
    stored = {n: v.flatten() for n, v in whole(best).items() if n.endswith("/weights")}
    exported, last = (AutoModelForCausalLM.from_pretrained(aftermath / "kept" / n) for n in ("best", "model"))
    for name, parameter in exported.named_parameters():
        np.testing.assert_array_equal(parameter.detach().numpy().flatten(), stored[f"{name}/weights"])
    assert not all(torch.equal(a, b) for a, b in zip(exported.parameters(), last.parameters(), strict=True))


def test_a_checkpoint_that_cannot_be_written_fails_the_run_and_says_why(aftermath: Path) -> None:
    assert "could not be written: [Errno 28] No space left" in (aftermath / "full-1.txt").read_text()
    assert "rank 1 could not write its share" in (aftermath / "full-0.txt").read_text()
    assert checkpoints(aftermath / "full") == []


def test_a_step_whose_loss_is_not_a_number_is_skipped_and_the_run_goes_on(aftermath: Path) -> None:
    records = history(aftermath / "skip")
    assert [record["step"] for record in records if "skipped" in record] == [BAD]
    assert [math.isfinite(record["loss"]) for record in records] == [step != BAD for step in range(STEPS)]
    assert was_said(
        aftermath / "skip-screen", f"step {BAD}: the loss is nan; its batch had https", "is skipped"
    )
    (entry,) = map(json.loads, (aftermath / "skip/not_finite.jsonl").read_text().splitlines())
    assert (entry["step"], entry["action"]) == (BAD, "skip")
    assert len(entry["documents"]) == 8


def test_rolling_back_past_a_nan_step_ends_like_skipping_it(
    aftermath: Path,
) -> None:
    assert was_said(aftermath / "rollback-screen", "rolling back to step 2")
    np.testing.assert_array_equal(losses(aftermath / "rollback"), losses(aftermath / "skip"))
    assert [record["step"] for record in history(aftermath / "rollback")] == list(range(STEPS))


def test_a_nan_loss_stops_the_run_by_default_and_names_step_and_documents(aftermath: Path) -> None:
    words = (aftermath / "stop.txt").read_text()
    assert words.startswith(f"test step {BAD}: the loss is nan; its batch had https://news.example/")
    assert "on_nan: skip" in words


def test_a_rank_that_hangs_is_named_with_the_stacks_of_all(aftermath: Path) -> None:
    said = (aftermath / "hung-screen").read_text()
    assert "step 2 has not ended after" in said
    assert "rank 0: waiting for the others" in said
    assert "rank 1: in batch (test_interruptions.py line" in said
    stacks = sorted((aftermath / "hung/stacks/step-00000002").iterdir())
    assert [path.name for path in stacks] == ["rank-00000.txt", "rank-00001.txt"]
    assert "time.sleep" not in stacks[0].read_text()
    assert losses(aftermath / "hung") == losses(aftermath / "told")[:3]  # it woke up, and went on


def test_a_preemption_notice_to_one_rank_makes_all_ranks_checkpoint_that_step(aftermath: Path) -> None:
    assert (aftermath / "told-screen").read_text().count(
        "rank 1 received SIGTERM: the checkpoint of step 3 is complete"
    ) == 1
    assert checkpoints(aftermath / "told") == [3, 6]


def test_a_run_on_s3_resumes_from_its_newest_checkpoint_bit_for_bit(s3_server: str, tmp_path: Path) -> None:
    on_ranks(1, in_s3, tmp_path)
    output = Artifact("s3://corpus/ended")
    assert [record["loss"] for record in read_history(output)] == losses(tmp_path / "undisturbed")
    whole = [name for name in output.files("_scratch/train") if name.endswith("whole.json")]
    assert [name.split("_")[2] for name in sorted(whole)] == ["00000004", "00000006"]


def test_after_a_failed_export_only_the_export_is_repeated(tmp_path: Path) -> None:
    on_ranks(1, export_fails_once, tmp_path)
    assert losses(tmp_path / "failed") == losses(tmp_path / "exported")
    files = [tmp_path / name / "model/model.safetensors" for name in ("failed", "exported")]
    assert files[0].read_bytes() == files[1].read_bytes()


def was_said(screen: Path, *words: str) -> bool:
    """Whether one line has all the words, in this order."""
    return any(
        all(place >= 0 for place in places) and list(places) == sorted(places)
        for line in screen.read_text().splitlines()
        if (places := [line.find(word) for word in words])
    )
