"""Examples before a question, drawn and joined as lm-evaluation-harness does it (`--num_fewshot`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Literal

from headwater.cluster.errors import HeadwaterError
from headwater.llm.benchmarks.tasks import TASKS, Item

Shots = int | Literal["core"]
"""Examples before each question: a number for all benchmarks, or for each the number that CORE has."""
SEED = 1234
"""lm-eval's seed. Each benchmark begins with it, and draws for one question after the other."""
SEPARATOR = "\n\n"


def shots_of(name: str, shots: Shots) -> int:
    """The examples before each question of a benchmark."""
    return TASKS[name].core_shots if shots == "core" else shots


def check_shots(names: Sequence[str], shots: Shots) -> None:
    """Raises ValueError for a benchmark that is only asked without examples."""
    for name in names:
        if shots_of(name, shots) and not TASKS[name].takes_examples:
            raise ValueError(f"{name} is asked without examples only: leave it out, or set `shots` to 0")


def with_examples(items: Sequence[Item], pool: Sequence[Item], count: int, *, own: bool) -> list[Item]:
    """The items with `count` solved questions of the pool before each, and an empty line after each of these.

    `own`: the items are of the pool, and none is its own example. Raises HeadwaterError if the pool has too
    few.
    """
    if count + own > len(pool):
        raise HeadwaterError(
            f"there are {len(pool):,} questions to draw {count} examples from", fix="lower `shots`"
        )
    random = Random(SEED)  # noqa: S311
    return [_after(_drawn(random, item, pool, count, own), item) for item in items]


def _drawn(random: Random, item: Item, pool: Sequence[Item], count: int, own: bool) -> list[Item]:
    drawn = random.sample(pool, count + own)
    if own:
        drawn = [each for each in drawn if each != item][:count]
    if len(drawn) < count:  # the pool repeats the question
        drawn = random.sample([each for each in pool if each != item], count)
    return drawn


def _after(examples: Sequence[Item], item: Item) -> Item:
    before = "".join(f"{''.join(each.pairs[each.gold])}{SEPARATOR}" for each in examples)
    return replace(item, pairs=tuple((before + context, after) for context, after in item.pairs))
