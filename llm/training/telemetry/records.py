"""Training records: one per step, to `metrics.jsonl` and optionally TensorBoard, W&B and MLflow.

Records are written while training runs. A run that resumes from a checkpoint first removes the records of
later steps, so that no step has two records.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import statistics
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.stage import StageConfig
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem, is_remote
from headwater.llm.training.telemetry.goodput import Goodput

if TYPE_CHECKING:
    import torch

HISTORY = "metrics.jsonl"
TENSORBOARD = "tensorboard"
UPLOAD_SECONDS = 30.0
"""Minimum interval between uploads of records to S3, which cannot append to an object."""
MEGABYTE = 1 << 20

Record = dict[str, float]


class TrackConfig(StageConfig):
    """Where to send metrics in addition to `metrics.jsonl`."""

    tensorboard: bool = True
    """Write TensorBoard event files to the artifact's folder `tensorboard/`."""
    wandb: str | None = Field(None, min_length=1)
    """Weights & Biases project. Needs the package `wandb`, and its key in the workers' environment."""
    mlflow: str | None = Field(None, min_length=1)
    """MLflow tracking URI. Needs the package `mlflow`."""


def check_packages(track: TrackConfig) -> None:
    """Raises HeadwaterError if a tracker's package is not installed."""
    for package in ("wandb", "mlflow"):
        if getattr(track, package) is not None and importlib.util.find_spec(package) is None:
            raise HeadwaterError(
                f"the package {package} is not installed",
                where=f"track.{package}",
                fix=f"`pip install {package}` here and on the workers, or remove the setting",
            )


def dump(record: Record) -> str:
    """One line of JSON; values that are not finite become null, which every JSON reader accepts."""
    return json.dumps({n: v if math.isfinite(v) else None for n, v in record.items()}) + "\n"


def parse(line: str | bytes) -> Record:
    return {name: math.nan if value is None else value for name, value in json.loads(line).items()}


def read_history(output: Artifact) -> list[Record]:
    """One record per step: loss, learning rate, gradient norm, tokens per second, evaluations."""
    return [parse(line) for line in output.read_bytes(HISTORY).splitlines()]


def summary(history: list[Record]) -> dict[str, float]:
    """The manifest's summary of a history; skipped steps (`on_nan`) have no loss."""
    losses = [record["loss"] for record in history if math.isfinite(record["loss"])]
    kept: dict[str, float] = {
        "steps": len(history),
        "first_loss": losses[0],
        "final_loss": losses[-1],
        "median_tokens_per_second": _median(history, "tokens_per_second"),
    }
    if any("mfu" in record for record in history):
        kept["median_mfu"] = _median(history, "mfu")
        kept["peak_memory_mb"] = max(record["memory_mb"] for record in history if "memory_mb" in record)
    return kept


def _median(history: list[Record], name: str) -> float:
    return statistics.median_high(record[name] for record in history if name in record)


def note(record: Record) -> str:
    """The text of the progress line for a step."""
    parts = [f"loss {record['loss']:.3f}"]
    if "tokens_per_second" in record:
        parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in record:
        parts.append(f"MFU {100 * record['mfu']:.0f} %")
    return ", ".join(parts)


def resident_mb(device: torch.device) -> float:
    """Memory of this process in MiB: peak allocated on its GPU, or currently resident on the host."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MEGABYTE
    import psutil  # type: ignore[import-untyped]

    return float(psutil.Process().memory_info().rss) / MEGABYTE


class Recorder:
    """Context manager that receives the steps' records. This base class discards them (ranks > 0)."""

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.close(failed=kind is not None)

    def add(self, record: Record) -> None: ...

    def go_back(self, history: list[Record]) -> None:
        """Remove the records after `history`: training resumes after its last step."""

    def close(self, *, failed: bool = False) -> None: ...


class RunRecorder(Recorder):
    """Rank 0's recorder: adds `goodput`, writes files and sends to trackers."""

    def __init__(
        self, output: Artifact, track: TrackConfig, label: str, history: list[Record], board: Any
    ) -> None:
        """`history`: the records of the steps before the first one to run."""
        self.output, self.track, self.label, self.board = output, track, label, board
        self._remote = is_remote(output.location)
        self._uploads = ThreadPoolExecutor(1, "metrics") if self._remote else None
        self._upload: Future[None] | None = None
        self._uploaded = time.monotonic()
        self._open(history)

    def _open(self, history: list[Record]) -> None:
        self._goodput = Goodput(self.output, history)
        self._lines = [dump(record) for record in history]
        self.output.write_bytes(HISTORY, "".join(self._lines).encode())
        if not self._remote:
            self._file = Path(filesystem(self.output.path(HISTORY))[1]).open("a", encoding="utf-8")  # noqa: SIM115
        first = len(history)
        self._trackers: list[_TensorBoard | _Wandb | _Mlflow] = []
        if self.track.tensorboard:
            self._trackers.append(_TensorBoard(self.output, first))
        if self.track.wandb is not None:
            self._trackers.append(_Wandb(self.track.wandb, f"{self.label}-{self.output.key}"))
        if self.track.mlflow is not None:
            self._trackers.append(_Mlflow(self.track.mlflow, self.label, self.output.key))

    def add(self, record: Record) -> None:
        record["goodput"] = self._goodput.add(record)
        line = dump(record)
        if self._remote:
            self._lines.append(line)
            if time.monotonic() - self._uploaded > UPLOAD_SECONDS:
                self._put()
        else:
            self._file.write(line)
            self._file.flush()
        for tracker in self._trackers:
            tracker.add(record)
        self.board.report.remote(int(record["step"]) + 1, note(record))

    def go_back(self, history: list[Record]) -> None:
        self.close(failed=True)
        self._open(history)

    def _put(self) -> None:
        """Upload in the background; raises the failure of the previous upload."""
        assert self._uploads is not None
        if self._upload is not None:
            if not self._upload.done():
                return
            self._upload.result()
        self._uploaded = time.monotonic()
        data = "".join(self._lines).encode()
        self._upload = self._uploads.submit(self.output.write_bytes, HISTORY, data)

    def close(self, *, failed: bool = False) -> None:
        for tracker in self._trackers:
            tracker.close(failed)
        if not self._remote:
            self._file.close()
            return
        if self._upload is not None:
            self._upload.result()
        self.output.write_bytes(HISTORY, "".join(self._lines).encode())


class _TensorBoard:
    """Event files. A file that starts at a step makes TensorBoard discard older values of later steps."""

    def __init__(self, output: Artifact, first_step: int) -> None:
        from tensorboardX import SummaryWriter

        self.output, self.scratch = output, ""
        if is_remote(output.location):
            self.scratch = tempfile.mkdtemp(prefix="headwater-tensorboard-")
        folder = self.scratch or filesystem(output.path(TENSORBOARD))[1]
        self.writer = SummaryWriter(
            folder, purge_step=first_step, flush_secs=10, filename_suffix=f".from-{first_step}"
        )

    def add(self, record: Record) -> None:
        for name, value in record.items():
            if name != "step" and math.isfinite(value):
                self.writer.add_scalar(name, value, int(record["step"]))

    def close(self, failed: bool) -> None:
        self.writer.close()
        if self.scratch:
            for path in sorted(Path(self.scratch).iterdir()):
                self.output.write_bytes(f"{TENSORBOARD}/{path.name}", path.read_bytes())
            shutil.rmtree(self.scratch)


class _Wandb:
    """A W&B run with the artifact's key as its id, so that a resumed run continues in the same one."""

    def __init__(self, project: str, name: str) -> None:
        import wandb  # type: ignore[import-not-found, unused-ignore]

        self.run = wandb.init(project=project, name=name, id=name, resume="allow")

    def add(self, record: Record) -> None:
        self.run.log({n: v for n, v in record.items() if n != "step"}, step=int(record["step"]))

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class _Mlflow:
    """A run of the experiment `headwater`, named after stage and artifact."""

    def __init__(self, uri: str, label: str, key: str) -> None:
        import mlflow  # type: ignore[import-not-found, unused-ignore]

        self.client: Any = mlflow.tracking.MlflowClient(uri)
        found = self.client.get_experiment_by_name("headwater")
        experiment = found.experiment_id if found else self.client.create_experiment("headwater")
        self.run = self.client.create_run(experiment, run_name=f"{label}-{key}").info.run_id

    def add(self, record: Record) -> None:
        for name, value in record.items():
            if name != "step" and math.isfinite(value):
                self.client.log_metric(self.run, name, value, step=int(record["step"]))

    def close(self, failed: bool) -> None:
        self.client.set_terminated(self.run, "FAILED" if failed else "FINISHED")
