"""Which prompts are handed out when, and which make up a batch."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from headwater.llm.rl.rollouts.arrivals import Arrivals


@given(
    prompts=st.integers(1, 5),
    staleness=st.integers(0, 4),
    batches=st.integers(1, 12),
    seed=st.integers(0, 1 << 32),
    kills=st.floats(0, 0.5),
)
def test_whatever_arrives_first_no_prompt_is_too_old_left_out_or_twice(
    prompts: int, staleness: int, batches: int, seed: int, kills: float
) -> None:
    chance, taken, waiting = random.Random(seed), [], []
    arrivals: Arrivals[str] = Arrivals(prompts, staleness, batches)
    outside: list[tuple[int, int]] = []
    for number in range(batches):
        if chance.random() < kills:  # what was on its way is lost; what batches left out is known
            arrivals, outside = Arrivals(prompts, staleness, batches, number, waiting), []
        outside += [(position, number) for position in arrivals.hand_out(number)]
        assert len(outside) <= (staleness + 1) * prompts
        while (batch := arrivals.take()) is None:
            assert outside, "it waits for what will never come"
            position, version = outside.pop(chance.randrange(len(outside)))
            arrivals.arrive(position, f"answers to {position}")
            assert version <= number
        assert len(batch) == prompts
        assert all(number - arrived.version <= staleness for arrived in batch)
        assert all(arrived.what == f"answers to {arrived.position}" for arrived in batch)
        taken += [arrived.position for arrived in batch]
        waiting = arrivals.waiting()
    assert sorted(taken) == list(range(prompts * batches))


def test_a_batch_is_what_came_first_unless_something_would_be_too_old() -> None:
    arrivals: Arrivals[None] = Arrivals(2, 1, 3)
    assert arrivals.hand_out(0) == [0, 1, 2, 3]
    for position in (3, 1):
        arrivals.arrive(position, None)
    assert [arrived.position for arrived in arrivals.take() or []] == [3, 1]
    assert arrivals.hand_out(1) == [4, 5]
    for position in (5, 4):
        arrivals.arrive(position, None)
    assert arrivals.take() is None, "0 and 2 would be two batches old in the next one"
    for position in (2, 0):
        arrivals.arrive(position, None)
    assert [arrived.position for arrived in arrivals.take() or []] == [2, 0]
    assert arrivals.hand_out(2) == [], "the run has three batches"


def test_without_staleness_a_batch_is_handed_out_with_its_own_weights() -> None:
    arrivals: Arrivals[None] = Arrivals(2, 0, 2)
    assert arrivals.hand_out(0) == [0, 1]
    arrivals.arrive(1, None)
    assert arrivals.take() is None
    arrivals.arrive(0, None)
    assert arrivals.take() is not None
    assert arrivals.hand_out(1) == [2, 3]
