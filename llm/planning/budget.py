"""The model and tokens that a sum of money buys: the compute-optimal split of its FLOPs."""

from __future__ import annotations

import math

from pydantic import BaseModel

from headwater.llm.hardware import machines
from headwater.llm.hardware.machines import Machine
from headwater.llm.model.shape import flops_per_token, parameter_count, shape_of
from headwater.llm.planning.plan import START_SECONDS, Plan, Work, plan_gpus
from headwater.llm.planning.scaling_law import CHINCHILLA, FittedLaw
from headwater.llm.rows.sizes import stretched

DEPTHS = range(1, 97)
BATCH_TOKENS = 1 << 19
"""Minimum tokens per step: nanochat's 524,288, used for models of 0.5 to 2 B parameters."""
TRUSTED_REACH = 1000.0
"""The fitted law decides the split up to this many times the FLOPs of the largest small run."""


class Budget(BaseModel):
    """What a sum of money buys on some GPUs."""

    dollars: float
    hours: float
    flops: float
    """Training FLOPs, excluding startup."""
    rule: str
    """How parameters and tokens were chosen."""
    plan: Plan
    """The plan of that model with those tokens."""


def afford(
    work: Work, machine: Machine, dollars: float, law: FittedLaw | None, mfu: float | None = None
) -> Budget:
    """The recipe with the depth and steps that a budget buys on these GPUs. Its stages of batches keep their
    share of the steps and of the batch."""
    hours = dollars / machine.dollars_per_hour if machine.dollars_per_hour else math.inf
    seconds = max(0.0, 3600 * hours - START_SECONDS)
    flops = seconds * machine.peak_flops * (mfu or machines.MFU[1])
    offers = [(depth, *_split(work, depth, flops)) for depth in DEPTHS]
    rule = "Chinchilla's 20 tokens per parameter (Hoffmann et al. 2022)"
    chosen = min(offers, key=lambda offer: abs(math.log(max(offer[2], 1) / offer[1] / CHINCHILLA)))
    if law is not None:
        best = min(offers, key=lambda offer: law.law.loss(offer[1], max(offer[2], 1)))
        reach = law.reach(best[1], best[2])
        if reach <= TRUSTED_REACH:
            chosen = best
            rule = f"the lowest loss by the law from {len(law.points)} small runs"
        else:
            rule += f"; the law of the small runs would extrapolate {reach:,.0f} times beyond them"
    depth, _, tokens = chosen
    batch = max(work.config.batch, BATCH_TOKENS // work.row_length)
    batch = -(-batch // machine.count) * machine.count
    of_batch = work.config.whole_steps() / work.config.steps
    steps = max(1, round(tokens / (batch * of_batch * work.row_length)))
    model = work.config.model.model_copy(update={"depth": depth})

    def planned(steps: int) -> Plan:
        stages = stretched(
            work.config.batch_stages, steps / work.config.steps, batch / work.config.batch, machine.count
        )
        config = work.config.model_copy(
            update={"model": model, "batch": batch, "steps": steps, "batch_stages": stages}
        )
        return plan_gpus(Work(work.name, config, work.vocab_size, work.row_length), machine, law, mfu)

    plan = planned(steps)
    taken = (plan.seconds or 0.0) - START_SECONDS
    if taken > seconds > 0:  # the exchange takes time, too
        plan = planned(max(1, int(steps * seconds / taken)))
    return Budget(dollars=dollars, hours=hours, flops=flops, rule=rule, plan=plan)


def _split(work: Work, depth: int, flops: float) -> tuple[int, float]:
    """Parameters at a depth, and the tokens that `flops` trains it on."""
    model = work.config.model.model_copy(update={"depth": depth})
    shape = shape_of(model, work.vocab_size)
    return parameter_count(shape), flops / flops_per_token(shape, work.row_length)
