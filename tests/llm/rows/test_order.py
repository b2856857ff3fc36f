"""The batch of a step depends only on seed and step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.cluster.errors import HeadwaterError
from headwater.llm.rows.order import RepeatedOrder, ShuffledOrder
from headwater.llm.rows.permutation import permutation
from headwater.llm.rows.sizes import Sizes

seeds = st.integers(0, 2**64 - 1)


@settings(deadline=None)
@given(st.integers(1, 5000), seeds, st.integers(0, 1000))
def test_every_epoch_is_a_bijection(n: int, seed: int, epoch: int) -> None:
    assert (np.sort(permutation(n, seed, epoch, np.arange(n))) == np.arange(n)).all()


@settings(deadline=None)
@given(st.integers(1, 2**40), seeds, st.integers(0, 100), st.data())
def test_an_index_maps_the_same_alone_and_in_a_batch(
    n: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8)))
    together = permutation(n, seed, epoch, indices)
    assert ((together >= 0) & (together < n)).all()
    assert [int(permutation(n, seed, epoch, np.array([i]))[0]) for i in indices] == together.tolist()


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 80), seeds, st.integers(1, 12))
def test_epochs_follow_each_other_and_none_repeats_a_row(
    rows: int, batch: int, seed: int, epochs: int
) -> None:
    plan = ShuffledOrder(rows, batch, seed)
    steps = -(-rows * epochs // batch)
    stream = np.concatenate([plan.indices(step) for step in range(steps)])
    for epoch in range(epochs):
        assert sorted(stream[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


@settings(deadline=None)
@given(st.integers(1, 1000), st.integers(1, 64), st.integers(1, 8), seeds, st.integers(0, 10**9))
def test_the_shares_of_any_world_size_join_to_the_same_batch(
    rows: int, batch: int, world_size: int, seed: int, step: int
) -> None:
    plan = ShuffledOrder(rows, batch, seed)
    shares = [plan.share(step, rank, world_size) for rank in range(world_size)]
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert (np.concatenate(shares) == plan.indices(step)).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.lists(st.tuples(st.integers(1, 5), st.integers(1, 40)), max_size=3))
def test_stages_of_other_batches_divide_the_same_stream(batch: int, stages: list[tuple[int, int]]) -> None:
    ends = itertools.accumulate(length for length, _ in stages)
    early = tuple((end, rows) for end, (_, rows) in zip(ends, stages, strict=True))
    plan, sizes = ShuffledOrder(70, batch, 5, early=early), Sizes(batch, early)
    expected = [rows for length, rows in stages for _ in range(length)] + 3 * [batch]
    found = [plan.indices(step).tolist() for step in range(len(expected))]
    assert [len(rows) for rows in found] == expected
    whole = ShuffledOrder(70, sum(expected), 5).indices(0).tolist()  # all of them as one batch
    assert [row for rows in found for row in rows] == whole
    for step, rows in enumerate(found):
        first, count = sizes.before(step), sizes.rows(step)
        assert (first, count) == (sum(expected[:step]), expected[step])
        assert (sizes.place(first), sizes.place(first + count - 1)) == ((step, 0), (step, count - 1))
        shares = [plan.share(step, rank, 3).tolist() for rank in range(3)]
        assert [row for share in shares for row in share] == rows


@pytest.mark.parametrize(("rows", "batch"), [(0, 4), (4, 0)])
def test_a_plan_without_rows_or_batch_is_refused(rows: int, batch: int) -> None:
    with pytest.raises(HeadwaterError):
        ShuffledOrder(rows, batch, 0)


def test_an_index_outside_the_range_is_an_error() -> None:
    with pytest.raises(IndexError):
        permutation(10, 0, 0, np.array([10]))


@pytest.mark.parametrize("n", [7, 10, 64])
def test_each_index_goes_everywhere_equally_often(n: int) -> None:
    # chi-squared of n(n-1) degrees of freedom: its mean, with six standard deviations sqrt(2 df) of room
    seeds_tried = 4000
    table = np.zeros((n, n))
    for seed in range(seeds_tried):
        table[np.arange(n), permutation(n, seed, seed % 3, np.arange(n))] += 1
    expected = seeds_tried / n
    freedom = (n - 1) ** 2
    assert abs(((table - expected) ** 2 / expected).sum() - freedom) < 6 * np.sqrt(2 * freedom)


def test_neighbours_are_separated_and_epochs_and_seeds_differ() -> None:
    n = 10_000
    first = permutation(n, 1, 0, np.arange(n))
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.05
    for other in (permutation(n, 1, 1, np.arange(n)), permutation(n, 2, 0, np.arange(n))):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.05
        assert (first == other).mean() < 0.01


def test_the_order_is_the_same_in_every_version() -> None:
    """Golden: a run started with one release must resume with the next."""
    assert ShuffledOrder(10, 5, 42).indices(0).tolist() == GOLDEN[0]
    assert ShuffledOrder(10, 5, 42).indices(1).tolist() == GOLDEN[1]
    assert ShuffledOrder(10, 5, 42).indices(2).tolist() == GOLDEN[2]


GOLDEN = [[5, 7, 3, 6, 8], [4, 2, 1, 0, 9], [2, 6, 1, 3, 9]]


def test_a_repeated_order_goes_through_some_batches_several_times() -> None:
    order = ShuffledOrder(rows=7, batch=2, seed=3)
    repeated = RepeatedOrder(order, together=2, epochs=3, batch=2)
    expected = [0, 1, 0, 1, 0, 1, 2, 3, 2, 3]
    for step, other in enumerate(expected):
        np.testing.assert_array_equal(repeated.indices(step), order.indices(other))
    for row in range(7):
        visits = repeated.visits(row, len(expected))
        assert [visit.step for visit in visits] == [s for s in range(10) if row in repeated.indices(s)]
        assert all(repeated.indices(visit.step)[visit.place] == row for visit in visits)
