"""Packing on plain arrays: no token lost or repeated, and no document cut without need."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.data_pipeline.tokens.packing import PackedRows, Packing, best_fit, pack
from headwater.data_pipeline.tokens.shards import IGNORED, inputs_and_targets

END, PAD = 0, 3

lengths = st.lists(st.integers(0, 40), max_size=12)
row_lengths = st.integers(2, 16)


def numbered(sizes: list[int]) -> list[tuple[str, list[int]]]:
    """Documents of which every token occurs nowhere else."""
    firsts = np.cumsum([4, *sizes]).tolist()
    return [(f"d{n}", list(range(firsts[n], firsts[n + 1]))) for n in range(len(sizes))]


def packed_rows(documents: list[tuple[str, list[int]]], length: int, packing: Packing) -> PackedRows:
    return pack(documents, length, end_id=END, pad_id=PAD, vocab_size=1 << 12, packing=packing)


@settings(deadline=None)
@given(lengths, row_lengths)
def test_concatenated_every_token_and_end_is_a_target_exactly_once_and_in_order(
    sizes: list[int], length: int
) -> None:
    documents = numbered(sizes)
    packed = packed_rows(documents, length, "concatenate")
    assert packed.ids.shape[1] == length + 1
    inputs, targets = inputs_and_targets(packed.ids.astype(np.int64), PAD)
    expected = [token for _, ids in documents for token in [*ids, END]]
    assert targets[targets != IGNORED].tolist() == expected
    assert inputs[targets != IGNORED].tolist() == [END, *expected][: len(expected)]
    assert packed.padding == (targets == IGNORED).sum() < length


@settings(deadline=None)
@given(lengths, row_lengths)
def test_concatenated_a_row_names_the_documents_in_it_and_where_they_begin(
    sizes: list[int], length: int
) -> None:
    documents = numbered(sizes)
    packed = packed_rows(documents, length, "concatenate")
    owner = [None, *(name for name, ids in documents for _ in range(len(ids) + 1))]
    for row, inside in enumerate(packed.documents):
        here = owner[row * length : (row + 1) * length + 1]
        names = list(dict.fromkeys(name for name in here if name is not None))
        assert inside == [(here.index(name), name) for name in names]


@settings(deadline=None)
@given(lengths, row_lengths)
def test_best_fit_cuts_no_document_that_fits_a_row_and_scores_every_token_once(
    sizes: list[int], length: int
) -> None:
    documents = numbered(sizes)
    packed = packed_rows(documents, length, "best_fit")
    inputs, targets = inputs_and_targets(packed.ids.astype(np.int64), PAD)
    scored = targets[targets != IGNORED]
    assert sorted(scored) == sorted(token for _, ids in documents for token in [*ids, END])
    assert packed.padding == (targets == IGNORED).sum()
    where = {int(targets[row, column]): (row, column) for row, column in np.argwhere(targets > PAD)}
    for _, ids in documents:
        for begin in range(0, len(ids), length):
            piece = ids[begin : begin + length]
            row, column = where[piece[0]]
            assert [where[token] for token in piece] == [(row, column + n) for n in range(len(piece))]
            before = inputs[row, column]
            assert before == END or (begin and column == 0 and before == ids[begin - 1])
            if len(piece) < length:
                assert targets[row, column + len(piece)] == END


@settings(deadline=None)
@given(lengths, row_lengths)
def test_best_fit_a_rows_documents_and_their_starts_are_its_tokens(sizes: list[int], length: int) -> None:
    documents = dict(numbered(sizes))
    owner = {token: name for name, ids in documents.items() for token in ids}
    packed = packed_rows(list(documents.items()), length, "best_fit")
    seen = set()
    for ids, inside in zip(packed.ids.tolist(), packed.documents, strict=True):
        for number, (start, name) in enumerate(inside):
            stop = inside[number + 1][0] if number + 1 < len(inside) else len(ids)
            tokens = [token for token in ids[start:stop] if token > PAD]
            assert {owner[token] for token in tokens} <= {name}
            if start and name not in seen:  # begins here: after an end
                assert ids[start - 1] == END and tokens == documents[name][: len(tokens)]
            assert start or name in seen
            seen.add(name)
    assert seen == set(documents)


def test_best_fit_rows_written_out() -> None:
    # Rows of 4 targets. a: 6 tokens and its end, so one full row and a rest of 3; b: 1 + end; c: 3 + end.
    documents = [("a", [10, 11, 12, 13, 14, 15]), ("b", [20]), ("c", [30, 31, 32])]
    packed = packed_rows(documents, 4, "best_fit")
    assert packed.ids.tolist() == [
        [END, 10, 11, 12, 13],
        [END, 30, 31, 32, END],
        [13, 14, 15, END, PAD],
        [END, 20, END, PAD, PAD],
    ]
    assert packed.documents == [[(1, "a")], [(1, "c")], [(0, "a")], [(1, "b")]]


def first_fit_bins(sizes: list[int], capacity: int) -> list[int]:
    """Best-fit decreasing as it is defined: room left in each bin."""
    room: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [(left, number) for number, left in enumerate(room) if left >= size]
        if fitting:
            room[min(fitting)[1]] -= size
        else:
            room.append(capacity - size)
    return sorted(room)


@settings(deadline=None)
@given(st.integers(1, 20).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=80))))
def test_bins_are_filled_as_by_the_definition(case: tuple[int, list[int]]) -> None:
    capacity, sizes = case
    bins = best_fit(np.array(sizes, np.int64), capacity)
    room = capacity - np.bincount(bins, weights=sizes)
    assert sorted(room) == first_fit_bins(sizes, capacity)


def test_a_million_documents_fill_their_rows() -> None:
    sizes = np.random.default_rng(0).lognormal(6, 1.2, 1_000_000).astype(np.int64) % 512 + 1
    bins = best_fit(sizes, 512)
    filled = np.bincount(bins, weights=sizes)
    assert filled.max() <= 512 and filled.mean() > 0.999 * 512


@pytest.mark.parametrize("length", [256, 512])
def test_real_pages_leave_less_than_a_twentieth_padded(shared_data: Path, length: int) -> None:
    texts = [json.loads(line)["text"] for line in (shared_data / "text/c4-300.jsonl").open()]
    documents = [(str(n), list(text.encode()[::4])) for n, text in enumerate(texts)]  # about as many as ids
    packed = pack(documents, length, end_id=256, pad_id=257, vocab_size=258, packing="best_fit")
    assert packed.padding <= 0.05 * len(packed.ids) * length
