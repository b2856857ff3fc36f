"""Python's garbage collector, kept from pausing single ranks in the middle of a step.

It runs when a process has made enough objects, on each rank at another moment, and all others wait for that
rank. torchtitan and nanochat switch it off in the loop and collect at fixed steps.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

YOUNG = 1
"""Generation up to which is collected, as in torchtitan: what a step leaves behind, in milliseconds."""


@contextlib.contextmanager
def collected_every(steps: int) -> Iterator[Callable[[int], None]]:
    """Within the block Python does not collect by itself. Call what it yields before each step: it collects
    when so many steps have passed. 0 leaves the collector alone."""
    if not steps:
        yield lambda step: None
        return
    was_on = gc.isenabled()
    gc.disable()
    gc.collect()
    try:
        yield lambda step: None if step % steps else _collect()
    finally:
        if was_on:
            gc.enable()


def _collect() -> None:
    gc.collect(YOUNG)
