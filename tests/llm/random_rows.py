"""A batch source for trainer tests: rows of a fixed sequence, optionally with a failure."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from headwater.llm.rows.order import ShuffledOrder
from headwater.llm.training.loop import Worker


class Rows:
    """Rows of a fixed sequence with ragged masks; rank 1 dies or hangs once, before a given step."""

    def __init__(
        self,
        batch: int,
        trace: str = "",
        deadly_step: int = -1,
        stand_still: bool = False,
        deadly_rank: int = 1,
    ) -> None:
        generator = np.random.default_rng(0)
        self.ids = generator.integers(5, 300, (64, 25))
        self.mask = (np.arange(25) < generator.integers(8, 25, (64, 1))).astype(np.uint8)
        self.plan = ShuffledOrder(64, batch, seed=1)
        self.trace, self.deadly_step, self.stand_still = Path(trace), deadly_step, stand_still
        self.deadly_rank = deadly_rank

    def open(self, worker: Worker) -> None:
        self.worker = worker

    def batch(self, step: int) -> dict[str, np.ndarray]:
        if step == self.deadly_step and self.worker.rank == self.deadly_rank and not self.trace.exists():
            self.trace.touch()
            if self.stand_still:
                time.sleep(600)
            os.kill(os.getpid(), signal.SIGKILL)
        indices = self.plan.share(step, self.worker.rank, self.worker.world_size)
        return {"ids": self.ids[indices], "mask": self.mask[indices]}

    def metrics(self) -> dict[str, float]:
        return {}
