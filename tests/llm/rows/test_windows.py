"""Shuffling within windows: each row once per epoch, each shard in one window, and an exact inverse."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tokens import shard_files
from headwater.llm.rows.mixture import BLOCK, MixtureOrder
from headwater.llm.rows.order import ShuffledOrder
from headwater.llm.rows.permutation import inverse_permutation, permutation
from headwater.llm.rows.windows import Windows
from headwater.llm.stages.pretrain import Pretrain, PretrainConfig, RowBatches, batch_order
from tests.data_pipeline.tokens.sharded import write_sharded

seeds = st.integers(0, 2**64 - 1)
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=30).map(tuple)
windows = st.builds(Windows, sizes, st.integers(1, 12))


def shard_of(shuffle: Windows, rows: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.cumsum(shuffle.sizes), rows, side="right")


@settings(deadline=None)
@given(windows, seeds, st.integers(0, 1000))
def test_an_epoch_is_a_permutation_and_the_inverse_undoes_it(shuffle: Windows, seed: int, epoch: int) -> None:
    everywhere = np.arange(shuffle.rows)
    there = shuffle.permutation(seed, epoch, everywhere)
    assert (np.sort(there) == everywhere).all()
    assert (shuffle.inverse(seed, epoch, there) == everywhere).all()
    for index in everywhere[:: max(1, shuffle.rows // 5)]:  # alone as together
        assert shuffle.permutation(seed, epoch, np.array([index])) == there[index]
        assert shuffle.inverse(seed, epoch, there[index : index + 1]) == index


@settings(deadline=None)
@given(windows, seeds, st.integers(0, 1000))
def test_a_shard_is_read_in_one_window_of_at_most_so_many_shards(
    shuffle: Windows, seed: int, epoch: int
) -> None:
    shards = shard_of(shuffle, shuffle.permutation(seed, epoch, np.arange(shuffle.rows)))
    seen: set[int] = set()
    position = epoch * shuffle.rows
    at = 0
    while at < shuffle.rows:
        now, _ = shuffle.around(seed, range(position + at, position + at + 1))
        size = sum(shuffle.sizes[shard] for shard in now)
        assert len(now) <= shuffle.width and not seen & set(now)
        assert set(shards[at : at + size].tolist()) == set(now)
        seen |= set(now)
        at += size
    assert len(seen) == len(shuffle.sizes)


@given(sizes, seeds, st.integers(0, 50))
def test_a_window_of_all_shards_is_the_shuffle_of_all_rows(
    rows: tuple[int, ...], seed: int, epoch: int
) -> None:
    shuffle, everywhere = Windows(rows, len(rows)), np.arange(sum(rows))
    assert (
        shuffle.permutation(seed, epoch, everywhere) == permutation(sum(rows), seed, epoch, everywhere)
    ).all()
    undone = inverse_permutation(sum(rows), seed, epoch, everywhere)
    assert (shuffle.inverse(seed, epoch, everywhere) == undone).all()


def test_windows_differ_by_at_most_one_shard() -> None:
    """A rest of one shard would be read almost in its own order."""
    shuffle = Windows((10,) * 65, 64)
    assert [len(shuffle.around(0, range(at, at + 1))[0]) for at in (0, 649)] == [32, 33]


def test_shards_windows_epochs_and_seeds_are_shuffled_differently() -> None:
    shuffle, everywhere = Windows((100,) * 40, 4), np.arange(4_000)
    first = shuffle.permutation(1, 0, everywhere)
    for other in (shuffle.permutation(1, 1, everywhere), shuffle.permutation(2, 0, everywhere)):
        assert (first == other).mean() < 0.01
    offsets = [first[start : start + 400] % 100 for start in range(0, 4_000, 400)]
    assert all((offsets[0] == other).mean() < 0.1 for other in offsets[1:]), "each window has its own shuffle"
    assert abs(np.corrcoef(first[:-1] % 100, first[1:] % 100)[0, 1]) < 0.1


def test_the_order_is_the_same_in_every_version() -> None:
    """Golden: a run started with one release must resume with the next."""
    order = ShuffledOrder(10, 5, 42, Windows((3, 2, 4, 1), 2))
    assert [order.indices(step).tolist() for step in (0, 1, 2, 1_000)] == GOLDEN


GOLDEN = [[6, 8, 5, 7, 9], [1, 4, 0, 2, 3], [9, 8, 7, 6, 5], [5, 6, 7, 9, 8]]


def test_the_shards_ahead_are_those_of_the_next_window_also_across_epochs() -> None:
    shuffle = Windows((2,) * 6, 2)
    stream = [shuffle.around(9, range(position, position + 1)) for position in range(0, 36, 4)]
    for (now, ahead), (then, _) in itertools.pairwise(stream):
        assert set(then) - set(now) <= set(ahead) <= set(then)
    both, _ = shuffle.around(9, range(3, 5))
    assert both == sorted({*stream[0][0], *stream[1][0]})


@settings(deadline=None, max_examples=30)
@given(windows, seeds, st.integers(1, 40), st.integers(0, 30), st.data())
def test_the_visits_of_a_row_are_those_of_a_scan(
    shuffle: Windows, seed: int, batch: int, steps: int, data: st.DataObject
) -> None:
    order = ShuffledOrder(shuffle.rows, batch, seed, shuffle)
    row = data.draw(st.integers(0, shuffle.rows - 1))
    scanned = [(step, int(at)) for step in range(steps) for at in np.flatnonzero(order.indices(step) == row)]
    assert [(visit.step, visit.place) for visit in order.visits(row, steps)] == scanned


MIXTURE = MixtureOrder(
    (range(0, 400), range(400, 500), range(600, 700)),
    (0.7, 0.01, 0.29),
    50,
    5,
    (Windows((80,) * 5, 2), Windows((100,), 2, 5), Windows((20,) * 5, 2, 7)),
)
SHARDS = np.repeat(np.arange(12), [*[80] * 5, 100, 100, *[20] * 5])
"""The shard of each row; shard 6 is of a corpus that is left out."""


def test_a_mixture_shuffles_each_corpus_within_windows() -> None:
    stream = np.concatenate([MIXTURE.indices(step) for step in range(40)])
    for corpus in MIXTURE.corpora:
        own = stream[(stream >= corpus.start) & (stream < corpus.stop)]
        whole = own[: len(own) // len(corpus) * len(corpus)].reshape(-1, len(corpus))
        assert (np.sort(whole) == np.arange(corpus.start, corpus.stop)).all()
    for row in (0, 399, 450, 699):
        scanned = [(s, int(p)) for s in range(40) for p in np.flatnonzero(MIXTURE.indices(s) == row)]
        assert [(visit.step, visit.place) for visit in MIXTURE.visits(row, 40)] == scanned


@pytest.mark.parametrize("step", [0, 7, BLOCK // 50, BLOCK // 50 + 1])
def test_a_mixtures_step_reads_only_the_shards_that_are_expected(step: int) -> None:
    expected = MIXTURE.shards(step)
    assert expected is not None
    now, ahead = expected
    assert {int(SHARDS[row]) for row in MIXTURE.indices(step)} <= set(now)
    assert 6 not in {*now, *ahead} and len(now) <= 3 * 2 * 2, "at most two windows of each corpus"


def test_an_epoch_opens_each_shard_once_with_no_more_maps_than_a_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a batch reads two windows: shards are read in the order of the batch."""
    monkeypatch.setattr(shard_files, "MOST_OPEN", 4)
    rows = write_sharded(Artifact(str(tmp_path)), shards=30)
    config = PretrainConfig(batch=7, seed=3, window_shards=4)
    source = RowBatches(rows, batch_order(rows, config))
    source.rank, source.world_size = 0, 1
    steps = 2 * len(rows) // 7
    read = np.concatenate([source.batch(step)["ids"] for step in range(steps)])
    assert rows.files.opened <= 2 * 30 * 1.1
    everything = rows.gather(np.arange(len(rows)))
    assert sorted(read[: len(rows)].tolist()) == sorted(everything.tolist())


def test_a_resumed_run_on_other_workers_reads_the_same_rows(tmp_path: Path) -> None:
    rows = write_sharded(Artifact(str(tmp_path)), shards=12)
    config = PretrainConfig(batch=6, seed=3, window_shards=3)
    whole = [rows.gather(batch_order(rows, config).indices(step)).tolist() for step in range(30)]
    for world_size in (1, 2, 3):
        workers = [
            RowBatches(pickle.loads(pickle.dumps(rows)), batch_order(rows, config)) for _ in range(world_size)
        ]
        for rank, worker in enumerate(workers):
            worker.rank, worker.world_size = rank, world_size
        for step in range(11, 30):
            joined = [row for worker in workers for row in worker.batch(step)["ids"].tolist()]
            assert joined == whole[step]


def test_the_window_is_part_of_the_key_unless_it_is_the_default() -> None:
    def key(**settings: float) -> str:
        return Pretrain(PretrainConfig.model_validate(settings)).key({"tokenize": "t"}, {})

    assert key() == key(window_shards=1024) == key(shard_cache_gb=1)
    assert key() != key(window_shards=512)
