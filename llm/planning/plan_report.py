"""The plan of a pretraining compared with its actual figures: made at its start, compared at its end."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tokens.shards import TokenRows

if TYPE_CHECKING:
    from headwater.cluster.storage.store import Store
    from headwater.llm.planning.plan import Plan
    from headwater.llm.planning.scaling_law import FittedLaw
    from headwater.llm.stages.pretrain import PretrainConfig

PLAN = "plan.json"


class PlanAhead:
    """The plan of a starting pretraining, made in a thread while its workers start."""

    def __init__(self, *arguments: Any) -> None:
        """The arguments are those of `write_plan`; the session is last."""
        self.session: Session = arguments[-1]
        self._plan = ThreadPoolExecutor(1).submit(write_plan, *arguments)

    def beside(self, history: Sequence[dict[str, float]], seconds: float | None) -> list[dict[str, Any]]:
        """Rows for the report (`compared`); empty if the plan failed, which must not fail the training."""
        if error := self._plan.exception():
            self.session.say(f"the plan failed, nothing to compare with: {type(error).__name__}: {error}")
            return []
        return compared(self._plan.result(), history, seconds)


def write_plan(
    config: PretrainConfig, rows: TokenRows, validation_rows: int, output: Artifact, session: Session
) -> Plan:
    """Plan by formula, using the measurements of `headwater plan` on this machine and the law of `headwater
    scaling` for these tokens, if there are any. A resumed run keeps its first plan.
    """
    from headwater.llm.planning.calibrate import place, read_calibration
    from headwater.llm.planning.plan import Plan, Work, plan_here

    if output.exists(PLAN):
        return Plan.model_validate(output.read_json(PLAN))
    work = Work("pretrain", config, rows.vocab_size, rows.row_length, validation_rows)
    where = place(config, work.shape(), work.row_length, session.address)
    measured = read_calibration(session.store, where)
    plan = plan_here(work, measured, newest_law(session.store, rows.artifact.key))
    output.write_json(PLAN, plan.model_dump())
    return plan


def newest_law(store: Store, tokenize_key: str) -> FittedLaw | None:
    """The newest law fitted to small runs on these tokens; None if there is none."""
    from headwater.llm.planning.scaling import LAW
    from headwater.llm.planning.scaling_law import FittedLaw

    made = [m for m in store.manifests() if m.stage == "scaling" and m.inputs["tokenize"] == tokenize_key]
    return FittedLaw.from_json(store.artifact("scaling", made[-1].key).read_json(LAW)) if made else None


def compared(plan: Plan, history: Sequence[dict[str, float]], seconds: float | None) -> list[dict[str, Any]]:
    """Rows of the report: planned value, its bounds, actual value.

    `seconds` is the stage's wall-clock time, None for an interrupted run. Without measurements the peak is
    omitted: the libraries' part of it would be a guess.
    """
    last = history[-1]
    early = plan.batch_stages[-1].until if plan.batch_stages else 0
    usual = [record["seconds"] for record in history if record["step"] >= early]
    state, peak = (last[name] / 1e6 if name in last else None for name in ("state_bytes", "peak_bytes"))
    rows = [
        _row("a worker's weights and optimizer, MB", plan.state_bytes / 1e6, state),
        _row("a worker's memory at its peak, MB", plan.peak_bytes / 1e6 if plan.seconds else None, peak),
        _row("seconds a step", plan.step_seconds, statistics.median(usual) if usual else None),
        _row("seconds in all", plan.seconds, seconds),
    ]
    if plan.loss is not None:
        loss = _row("validation, bits per byte", plan.loss.mean, last["bits_per_byte"])
        rows.append(loss | {"low": plan.loss.low, "high": plan.loss.high})
    return [row for row in rows if row["planned"] is not None and row["actual"] is not None]


def _row(name: str, planned: float | None, actual: float | None) -> dict[str, Any]:
    return {"name": name, "planned": planned, "actual": actual}
