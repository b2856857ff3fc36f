"""How many rows each step has: other batches before the usual one, as pure functions of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from headwater.cluster.runtime.stage import StageConfig


class BatchStage(StageConfig):
    """Steps whose batch differs from the usual one."""

    until: int = Field(ge=1)
    """The first step after them, counted from 0."""
    batch: int | None = Field(None, ge=1)
    """Rows per step. Default: `batch`."""
    row_length: int | None = Field(None, ge=1)
    """Tokens that are attended to together: a packed row is cut into equal parts of this length, each a
    sequence of its own. Default: the whole row."""


def stretched(
    stages: Sequence[BatchStage], steps: float, rows: float = 1.0, multiple: int = 1
) -> tuple[BatchStage, ...]:
    """The stages of a run with so many times the steps, and so many times the rows per step, which become a
    multiple of `multiple`. A stage that is left without a step is omitted."""
    found: list[BatchStage] = []
    for stage in stages:
        until = round(stage.until * steps)
        batch = stage.batch and multiple * max(1, round(stage.batch * rows / multiple))
        if until > (found[-1].until if found else 0):
            found.append(stage.model_copy(update={"until": until, "batch": batch}))
    return tuple(found)


@dataclass(frozen=True)
class Span:
    """Consecutive steps of one size."""

    steps: int
    batch: int
    row_length: int | None
    """Length that rows are cut to; None: they are whole."""


@dataclass(frozen=True)
class Sizes:
    """Rows per step. Positions count the rows of all steps from 0."""

    batch: int
    early: tuple[tuple[int, int], ...] = ()
    """First step after a stage, and the rows of each of its steps, in order."""

    @classmethod
    def of(cls, batch: int, stages: Sequence[BatchStage]) -> Sizes:
        return cls(batch, tuple((stage.until, stage.batch or batch) for stage in stages))

    def rows(self, step: int) -> int:
        """Rows of a step."""
        return next((rows for until, rows in self.early if step < until), self.batch)

    def before(self, step: int) -> int:
        """Rows of all steps before a step, which is the position of its first row."""
        position = start = 0
        for until, rows in self.early:
            position += rows * (min(until, step) - min(start, step))
            start = until
        return position + self.batch * max(0, step - start)

    def place(self, position: int) -> tuple[int, int]:
        """The step that has a position, and the row's index in its batch."""
        start = 0
        for until, rows in self.early:
            if position < rows * (until - start):
                step, place = divmod(position, rows)
                return start + step, place
            position -= rows * (until - start)
            start = until
        step, place = divmod(position, self.batch)
        return start + step, place
