"""Traces of some steps for chrome://tracing or ui.perfetto.dev: one file per rank in the run's folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from headwater.cluster.runtime.stage import StageConfig
from headwater.cluster.storage.artifact import Artifact

if TYPE_CHECKING:
    import torch

FOLDER = "profile"


class ProfileConfig(StageConfig):
    """Steps whose work on CPU and GPU is traced (torch.profiler). They are slower than others."""

    first: int = Field(ge=0)
    """The first of them; after a few dozen, memory and kernels have settled."""
    steps: int = Field(5, ge=1)
    """Number of steps. A trace has some megabytes for each."""


class Profile:
    """One rank's profiler. A run that begins within the window traces what is left of it."""

    def __init__(self, config: ProfileConfig | None, output: Artifact, rank: int, device: torch.device):
        self.config, self.output, self.rank = config, output, rank
        self.device = device
        self._running: Any = None
        self._first = 0

    def at(self, step: int) -> None:
        """To be called before each step, and after the last one."""
        if self.config is None:
            return
        window = range(self.config.first, self.config.first + self.config.steps)
        if self._running is None and step in window:
            self._start(step)
        elif self._running is not None and step not in window:
            self.close(step)

    def _start(self, step: int) -> None:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._running, self._first = profile(activities=activities, record_shapes=True), step
        self._running.start()

    def close(self, step: int) -> None:
        """Write the trace of the steps before this one, if there is one."""
        if self._running is None:
            return
        running, self._running = self._running, None
        running.stop()
        name = f"steps-{self._first:08d}-{step - 1:08d}.rank-{self.rank:05d}.json.gz"
        with tempfile.TemporaryDirectory(prefix="headwater-profile-") as folder:
            path = Path(folder) / name
            running.export_chrome_trace(str(path))
            self.output.write_bytes(f"{FOLDER}/{name}", path.read_bytes())
