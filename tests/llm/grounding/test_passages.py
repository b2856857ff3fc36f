"""Passages: whole sentences, overlaps, every word."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headwater.llm.grounding.passages import passage_spans

TEXT = " ".join(f"Sentence number {i} has exactly seven words." for i in range(40))


def test_passages_are_whole_sentences_with_shared_ones_between_them() -> None:
    spans = passage_spans(TEXT, 35, 7)
    passages = [TEXT[start:end] for start, end in spans]
    assert all(p.startswith("Sentence") and p.endswith("words.") for p in passages)
    assert all(len(p.split()) <= 35 for p in passages[:-1])
    assert all(b_start < a_end for (_, a_end), (b_start, _) in itertools.pairwise(spans))
    assert all(TEXT[b_start:a_end].count(".") == 1 for (_, a_end), (b_start, _) in itertools.pairwise(spans))


@given(
    st.lists(st.sampled_from(["word", "Two", "end.", "Dr.", "x" * 30, "!"]), max_size=120),
    st.integers(10, 40),
    st.integers(0, 60),
)
def test_passages_cover_every_word_of_a_text(words: list[str], size: int, overlap: int) -> None:
    text = " ".join(words)
    covered = np.zeros(len(text), bool)
    for start, end in passage_spans(text, size, overlap):
        assert 0 <= start < end <= len(text)
        covered[start:end] = True
    assert all(covered[i] for i, letter in enumerate(text) if letter != " ")
