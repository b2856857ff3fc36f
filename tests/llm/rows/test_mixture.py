"""Corpora mixed by weight: exact shares, and batches that depend only on seed and step."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tokens.packing import pack
from headwater.data_pipeline.tokens.shards import TokenRows, write_shard
from headwater.llm.rows.mixture import BLOCK, MixtureOrder, quotas_of
from headwater.llm.stages.pretrain import PretrainConfig, RowBatches, batch_order, epochs

WEIGHTS = (0.6, 0.3, 0.1)
CORPORA = (range(0, 1_000), range(1_000, 1_400), range(1_400, 1_450))


def corpus_of(rows: np.ndarray) -> np.ndarray:
    return np.searchsorted([corpus.stop for corpus in CORPORA], rows, side="right")


@pytest.mark.parametrize("seed", [0, 1, 2**63])
@pytest.mark.parametrize("rows", [160, 4_000, 200_000])
def test_shares_are_the_weights_within_three_deviations(seed: int, rows: int) -> None:
    plan = MixtureOrder(CORPORA, WEIGHTS, rows // 4, seed)
    drawn = corpus_of(np.concatenate([plan.indices(step) for step in range(4)]))
    for number, weight in enumerate(WEIGHTS):
        deviation = (weight * (1 - weight) / rows) ** 0.5
        assert abs((drawn == number).mean() - weight) < 3 * deviation


def test_every_epoch_of_a_corpus_visits_each_of_its_rows_once() -> None:
    plan = MixtureOrder(CORPORA, WEIGHTS, 1_000, seed=3)
    stream = np.concatenate([plan.indices(step) for step in range(80)])  # beyond a block
    assert len(stream) > BLOCK
    for corpus in CORPORA:
        mine = stream[(stream >= corpus.start) & (stream < corpus.stop)]
        for epoch in range(len(mine) // len(corpus)):
            assert sorted(mine[epoch * len(corpus) : (epoch + 1) * len(corpus)]) == list(corpus)


def test_the_order_has_no_pattern() -> None:
    plan = MixtureOrder((range(9_000), range(9_000, 18_000)), (1, 1), 10_000, seed=0)
    drawn = (plan.indices(0) >= 9_000).astype(float)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.03
    assert (plan.indices(0) != MixtureOrder(plan.corpora, (1, 1), 10_000, seed=1).indices(0)).mean() > 0.9


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**64 - 1), st.integers(0, 10**7), st.integers(1, 300))
def test_the_batch_is_a_function_of_seed_and_step_for_any_world_size(
    seed: int, step: int, batch: int
) -> None:
    plan = MixtureOrder(CORPORA, WEIGHTS, batch, seed)
    wanted = plan.indices(step)
    plan.indices(step + 12_345)  # what was asked for before changes nothing
    for world_size in (1, 2, 4):
        ranks = [pickle.loads(pickle.dumps(plan)) for _ in range(world_size)]
        shares = [ranks[rank].share(step, rank, world_size) for rank in range(world_size)]
        assert (np.concatenate(shares) == wanted).all()


def test_the_batch_size_does_not_change_the_stream() -> None:
    small, large = (MixtureOrder(CORPORA, WEIGHTS, batch, 9) for batch in (7, 70))
    stream = np.concatenate([small.indices(step) for step in range(10)])
    assert (stream == large.indices(0)).all()


def test_the_order_is_the_same_in_every_version() -> None:
    """Golden: a run started with one release must resume with the next."""
    plan = MixtureOrder((range(0, 10), range(10, 14)), (3, 1), 8, 42)
    assert [plan.indices(step).tolist() for step in (0, 1, 10_000)] == GOLDEN


GOLDEN = [[13, 9, 4, 5, 8, 0, 1, 11], [2, 3, 7, 6, 4, 10, 12, 3], [8, 7, 4, 13, 3, 10, 11, 6]]


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20))
def test_quotas_fill_a_block(weights: list[float]) -> None:
    quotas = np.array(quotas_of(tuple(weights)))
    assert quotas.sum() == BLOCK and quotas.min() >= 1
    exact = np.array(weights) / sum(weights) * BLOCK
    assert np.abs(quotas - exact)[exact >= 1].max() <= len(weights)


@pytest.mark.parametrize(("corpora", "weights"), [((), ()), ((range(0),), (1.0,)), ((range(3),), (0.0,))])
def test_an_empty_mixture_is_refused(corpora: tuple[range, ...], weights: tuple[float, ...]) -> None:
    with pytest.raises(HeadwaterError):
        MixtureOrder(corpora, weights, 4, 0)


@pytest.fixture
def rows(tmp_path: Path) -> TokenRows:
    """Three corpora; every token says which it is from."""
    artifact = Artifact(str(tmp_path))
    shards = []
    for number, name in enumerate(("web", "books", "code")):
        packed = pack([("d", [10 + number] * 170)], 8, end_id=0, pad_id=3, vocab_size=20)
        with artifact.create(f"train/{name}/0.arrow") as stream:
            write_shard(stream, packed)
        shards.append({"name": f"{name}/0.arrow", "rows": len(packed.ids), "corpus": name})
    split = {"tokens": 513, "bytes": 513, "documents": 3, "shards": shards}
    index = {"row_length": 8, "vocab_size": 20, "pad_id": 3, "end_id": 0, "splits": {"train": split}}
    artifact.write_json("rows.json", index)
    return TokenRows(artifact, "train")


def batches(rows: TokenRows, config: PretrainConfig, steps: range, world_size: int) -> list[list[list[int]]]:
    """Rows of each step, as workers that have just been started give them."""
    found = []
    for step in steps:
        joined: list[list[int]] = []
        for rank in range(world_size):
            source = RowBatches(pickle.loads(pickle.dumps(rows)), batch_order(rows, config))
            source.rank, source.world_size = rank, world_size
            joined += source.batch(step)["ids"].tolist()
        found.append(joined)
    return found


def test_a_resumed_run_on_a_different_number_of_workers_reads_the_same_rows(rows: TokenRows) -> None:
    config = PretrainConfig(batch=8, seed=4, mixture={"books": 3, "web": 1})
    whole = batches(rows, config, range(20), 1)
    for world_size in (1, 2, 4):
        assert batches(rows, config, range(11, 20), world_size) == whole[11:]
    tokens = np.array(whole)[..., 1]
    assert {10, 11} <= set(tokens.reshape(-1).tolist()) <= {0, 3, 10, 11}, "code is left out"
    assert epochs(batch_order(rows, config), rows, config, 22 * 8) == {
        "epochs": pytest.approx(22 * 8 / 66),
        "epochs_web": pytest.approx(2.0),
        "epochs_books": pytest.approx(6.0),
    }


def test_an_unknown_corpus_is_named(rows: TokenRows) -> None:
    with pytest.raises(HeadwaterError, match="wiki"):
        batch_order(rows, PretrainConfig(mixture={"wiki": 1}))
