"""An exponential moving average of the weights, sharded like them.

Every rank averages the fp32 elements it holds (`state.elements.Run`): the average costs as much as one more
AdamW moment, and is saved and loaded with them. It depends only on the weights of every step, not on the
number of workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from headwater.llm.training.state import elements

if TYPE_CHECKING:
    import torch


def decay_at(step: int, decay: float) -> float:
    """Decay at a step counted from 0: min(decay, (1 + step) / (10 + step)).

    The ramp is that of TensorFlow's ExponentialMovingAverage. Without it a run shorter than about
    1 / (1 - decay) steps would export an average that contains the random initialisation.
    """
    return min(decay, (1 + step) / (10 + step))


class Average:
    """The average of an engine's weights, stored as `engine.average`."""

    def __init__(self, engine: Any, decay: float) -> None:
        self.engine, self.decay = engine, decay
        self.values: dict[tuple[str, elements.Place], torch.Tensor] = {}
        for run in elements.runs(engine):
            if elements.WEIGHTS in run.values:
                self.values[run.parameter, run.place] = run.values[elements.WEIGHTS].detach().clone()
        engine.average = self

    def update(self, step: int) -> None:
        share = 1 - decay_at(step, self.decay)
        for run in elements.runs(self.engine):
            if elements.AVERAGE in run.values:
                run.values[elements.AVERAGE].lerp_(run.values[elements.WEIGHTS].detach(), share)

    def swap(self) -> None:
        """Exchange weights and average: for evaluation and export, and back. All ranks must call it."""
        for run in elements.runs(self.engine):
            if elements.AVERAGE in run.values:
                weights, average = run.values[elements.WEIGHTS].detach(), run.values[elements.AVERAGE]
                before = weights.clone()
                weights.copy_(average)
                average.copy_(before)
                elements.to_model(run)
        elements.spread_weights(self.engine)


@contextlib.contextmanager
def averaged(engine: Any) -> Iterator[None]:
    """Within the block the weights are their moving average, if the engine has one."""
    average: Average | None = getattr(engine, "average", None)
    if average is not None:
        average.swap()
    yield
    if average is not None:
        average.swap()
