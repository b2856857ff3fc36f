"""Steps whose loss or gradient is not finite: the update is refused, and the reason reported.

DeepSpeed's optimizers refuse an update whose gradient norm is not finite and leave weights and moments
untouched. `take_step` does the same where DeepSpeed has no optimizer of its own (ZeRO 0 in fp32), and treats
a bad loss as a bad gradient. The recipe's `on_nan` decides what follows.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from headwater.llm.training.job import StopTraining
from headwater.llm.training.undocumented import deepspeed_internals as internals

if TYPE_CHECKING:
    from headwater.llm.training.job import TrainJob, Worker
    from headwater.llm.training.state.manager import Stored

FILE = "not_finite.jsonl"
NAMED = 8
"""Maximum number of documents in a message; the file lists all."""


def take_step(engine: Any) -> tuple[bool, Any]:
    """The last `engine.step()` of a batch: whether it changed the weights, and the global gradient norm,
    which may be a tensor of the device."""
    if not internals.refuses_bad_gradients(engine):
        return _plain_step(engine)
    engine.step()
    norm = engine.get_global_grad_norm()
    return engine.was_step_applied(), 0.0 if norm is None else norm


def _plain_step(engine: Any) -> tuple[bool, float]:
    """Step of a plain torch optimizer: gradients are whole and equal on every rank."""
    import torch

    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    if math.isfinite(norm):
        engine.step()
        return True, norm
    internals.step_without_update(engine)
    return False, norm


class NotFinite:
    """Handles such steps by `on_nan`. One per rank; all decide alike."""

    def __init__(self, job: TrainJob, worker: Worker) -> None:
        self.job, self.worker, self.config = job, worker, job.config
        self.passed_over: dict[int, dict[str, float]] = {}
        """Steps to skip after a rollback, with their records."""
        self._in_a_row = 0
        self._returns: Counter[int] = Counter()

    def fine(self) -> None:
        self._in_a_row = 0

    def met(self, record: dict[str, float], newest: Stored | None) -> bool:
        """Handle a step whose update was refused. Returns True to roll back to the checkpoint `newest`.

        Raises StopTraining if the recipe says so, or after too many such steps.
        """
        step, config = int(record["step"]), self.config
        documents = self._documents(step)
        words = f"the loss is {record['loss']}"
        if math.isfinite(record["loss"]):
            words = f"the gradient norm is {record['gradient_norm']}"
        seen = ", ".join(documents[:NAMED]) + (" …" if len(documents) > NAMED else "")
        batch = f"; its batch had {seen}" if documents else ""
        self._in_a_row += 1
        back = newest if config.on_nan == "rollback" else None
        if back:
            self._returns[back.step] += 1
        many = max(self._in_a_row, *self._returns.values(), 0)
        stop = config.on_nan == "stop" or many > config.nan_limit
        action = "stop" if stop else "rollback" if back else "skip"
        self._write({"step": step, "found": words, "action": action, "documents": documents})
        if stop:
            often = f", {many} times so far" if many > 1 else ""
            raise StopTraining(
                f"{words}{often}{batch}",
                where=f"{self.job.label} step {step}",
                fix="lower `learning_rate`, or skip such batches with `on_nan: skip` or `rollback`",
            )
        self.passed_over[step] = record
        done = f"rolling back to step {back.step}, then skipping it" if back else "the step is skipped"
        if config.on_nan == "rollback" and not back:
            done += " (there is no checkpoint to roll back to yet)"
        if self.worker.rank == 0:
            self.worker.say(f"step {step}: {words}{batch}; {done}")
        return back is not None

    def _documents(self, step: int) -> list[str]:
        describe = getattr(self.job.source, "describe", None)
        return list(describe(step)) if describe else []

    def _write(self, entry: dict[str, Any]) -> None:
        if self.worker.rank:
            return
        output = self.job.output
        before = output.read_bytes(FILE) if output.exists(FILE) else b""
        output.write_bytes(FILE, before + json.dumps(entry).encode() + b"\n")
