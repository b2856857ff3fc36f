"""The full invariance test: 50 steps of every objective under every sharding and batch layout.

    python -m benchmarks.training.invariance [--steps 50] [--objective NAME …] [--optimizer adamw muon]

ZeRO 0-3 × 1, 2 and 4 workers × micro-batches of 1, 2 and 8 × both layouts of rows, each compared with one
worker without sharding, and 1, 2 and 4 workers each repeated. Prints the largest relative deviation of a
step's fp32 loss. Exits with 1 if a deviation exceeds 1e-5, or if a repetition is not bit-identical.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import replace

from tests.llm.trajectories import OBJECTIVES, STEPS, TOLERANCE, Case, deviation, losses

WORKERS, MICRO_BATCHES = (1, 2, 4), (1, 2, 8)


def cases(objectives: list[str], optimizers: list[str]) -> list[Case]:
    """Sort key: each `reference` first, then per objective by number of workers."""
    grid = itertools.product(objectives, WORKERS, optimizers, range(4), MICRO_BATCHES, (False, True))
    whole = [
        Case(objective, stage, workers, micro_batch, joined, optimizer)
        for objective, workers, optimizer, stage, micro_batch, joined in grid
    ]
    whole.sort(key=lambda case: case != reference(case))
    again = [replace(case, attempt=1) for case in whole if case.micro_batch == 2 and case.joined]
    return whole + again


def reference(case: Case) -> Case:
    """The reference of a case: one worker, no sharding, one micro-batch per batch, one text per row."""
    return Case(case.objective, optimizer=case.optimizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--objective", nargs="*", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--optimizer", nargs="*", choices=["adamw", "muon"], default=["adamw"])
    options = parser.parse_args()
    started = time.monotonic()
    found = {}
    worst, other_bits = 0.0, 0
    for case, trajectory in losses(cases(options.objective, options.optimizer), options.steps):
        found[case] = trajectory
        if case.attempt:
            same = trajectory == found[replace(case, attempt=0)]
            other_bits += not same
            print(f"{case!s:<72} repeated: {'bit-identical' if same else 'DIFFERENT BITS'}", flush=True)
            continue
        far = deviation(trajectory, found[reference(case)])
        worst = max(worst, far)
        print(f"{case!s:<72} {far:.1e}{'  ABOVE TOLERANCE' if far > TOLERANCE else ''}", flush=True)
    print(
        f"{len(found)} runs of {options.steps} steps in {time.monotonic() - started:.0f} s; "
        f"largest deviation {worst:.1e}; {other_bits} repetitions with different bits"
    )
    raise SystemExit(worst > TOLERANCE or other_bits > 0)


if __name__ == "__main__":
    main()
