"""An exponential moving average of the weights, sharded as they are.

Every rank averages the fp32 elements that it holds (`state.elements.Run`), so the average costs what one more
AdamW moment does and is saved and loaded with them. It is a function of the weights of every step and of the
step alone, whatever the number of workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headwater.llm.training.state import elements

if TYPE_CHECKING:
    import torch


def decay_at(step: int, decay: float) -> float:
    """How much of the average stays at a step counted from 0: min(decay, (1 + step) / (10 + step)).

    The ramp is that of TensorFlow's ExponentialMovingAverage: without it a run shorter than some
    1 / (1 - decay) steps would export an average with its random start in it.
    """
    return min(decay, (1 + step) / (10 + step))


class Average:
    """The average of an engine's weights; `checkpoint` finds it as `engine.average`."""

    def __init__(self, engine: Any, decay: float) -> None:
        self.engine, self.decay = engine, decay
        self.values: dict[tuple[str, elements.Place], torch.Tensor] = {}
        for run in elements.runs(engine):
            if elements.WEIGHTS in run.values:
                self.values[run.parameter, run.place] = run.values[elements.WEIGHTS].detach().clone()
        engine.average = self

    def update(self, step: int) -> None:
        """Take the weights in that a step has left."""
        share = 1 - decay_at(step, self.decay)
        for run in elements.runs(self.engine):
            if elements.AVERAGE in run.values:
                run.values[elements.AVERAGE].lerp_(run.values[elements.WEIGHTS].detach(), share)

    def install(self) -> None:
        """Put the average in the weights' place, to be evaluated and exported. All ranks must call it."""
        for run in elements.runs(self.engine):
            if elements.AVERAGE in run.values:
                run.values[elements.WEIGHTS].detach().copy_(run.values[elements.AVERAGE])
                elements.to_model(run)
        elements.spread_weights(self.engine)
