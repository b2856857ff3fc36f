"""What the ranks tell each other in a step: sums of losses and metrics, times, memory, notices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from headwater.llm.training.job import StopTraining, Worker
from headwater.llm.training.step_flops import batch_flops
from headwater.llm.training.telemetry.records import resident_mb

if TYPE_CHECKING:
    import numpy as np
    import torch

MAXIMUM = "_max"
"""End of the names of metrics that are maxima (`Objective.loss_sum`)."""


class Exchange:
    """What all ranks send each other in a step, after their forward passes."""

    def __init__(
        self,
        worker: Worker,
        arrays: dict[str, np.ndarray],
        sums: dict[str, torch.Tensor],
        waited: float,
        weight: float,
    ) -> None:
        tokens = sum(arrays[name].size for name in ("ids", "chosen", "rejected") if name in arrays)
        flops = batch_flops(worker.engine.module, arrays) if worker.peak else 0.0
        known = {
            "data_wait": waited,
            "memory_mb": resident_mb(worker.device),
            "tokens": tokens / worker.copies,
            "flops": flops / worker.copies,
            "weight": weight,
        }
        told = [worker.own_seconds, *worker.tell()]
        self.worker, self.metrics = worker, sorted(sums)
        self._names = [*known, *(f"told {place}" for place in range(len(told))), *self.metrics]
        self._known = len(known)
        self._sent = worker.gathered([*known.values(), *told], [sums[name] for name in self.metrics])
        self.totals: dict[str, float] = {}
        self.norm = math.nan

    def loss(self) -> torch.Tensor:
        """The sum of all ranks' losses, on the device."""
        return self._sent[:, self._names.index("loss")].sum()

    def means(self, step: int, norm: Any = math.nan) -> dict[str, float]:
        """The objective's metrics. Waits for the GPU, and fills `totals`, `norm` and `worker.heard`.

        Totals are sums, but the maximum of memory, waiting time and metrics that say so.

        Raises StopTraining if nothing in the batch counts.
        """
        import torch

        own_norm = torch.as_tensor(norm, dtype=torch.float64, device=self._sent.device).reshape(1)
        *values, self.norm = torch.cat([self._sent.reshape(-1), own_norm]).tolist()
        width = len(self._names)
        ranks = [values[start : start + width] for start in range(0, len(values), width)]
        self.worker.heard = [rank[self._known : width - len(self.metrics)] for rank in ranks]
        by_name = dict(zip(self._names, zip(*ranks, strict=True), strict=True))
        most = {"data_wait", "memory_mb", *(name for name in self.metrics if name.endswith(MAXIMUM))}
        self.totals = {name: max(each) if name in most else sum(each) for name, each in by_name.items()}
        weight = self.totals["weight"]
        if weight == 0:
            raise StopTraining(
                "every label in this batch is masked: the loss has no tokens or pairs", where=f"step {step}"
            )
        return {n: self.totals[n] / (1 if n.endswith(MAXIMUM) else weight) for n in self.metrics}
