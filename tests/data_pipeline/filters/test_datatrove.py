"""datatrove 0.10.1 is the oracle: the same decision, reason, text and signature for every document."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.data_pipeline.dedup.minhash import MinHashConfig, MinHasher
from headwater.data_pipeline.text.main_text.extract import ExtractConfig, main_text
from headwater.data_pipeline.text.words.document_text import Text, vocabulary
from headwater.data_pipeline.verdict import Rejection
from tests.data_pipeline.decided import decided
from tests.data_pipeline.reading import read_all

pytest.importorskip("datatrove", reason="datatrove is not installed")

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.c4_filters import C4QualityFilter
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import split_into_sentences, split_into_words

PAIRS: dict[str, tuple[BaseFilter, Callable[[Sequence[str]], list[tuple[str | None, str]]]]] = {
    "gopher_repetition": (GopherRepetitionFilter(), partial(decided, "gopher_repetition")),
    "gopher_quality": (GopherQualityFilter(), partial(decided, "gopher_quality")),
    "c4": (C4QualityFilter(filter_no_terminal_punct=False), partial(decided, "c4")),
    "c4 with terminal punctuation": (C4QualityFilter(), partial(decided, "c4", terminal_punctuation=True)),
    "fineweb": (FineWebQualityFilter(), partial(decided, "fineweb")),
}


def theirs(oracle: BaseFilter, text: str) -> tuple[str | None, str]:
    """The reason, or None and the text as the filter leaves it."""
    document = Document(text=text, id="")
    result = oracle.filter(document)
    return (None, document.text) if result is True else (result[1], "")


def assert_equal_decisions(texts: list[str]) -> set[str | None]:
    """The reasons that were met."""
    reasons: set[str | None] = set()
    for name, (oracle, decide) in PAIRS.items():
        for text, ours in zip(texts, decide(texts), strict=True):
            assert ours == theirs(oracle, text), f"{name}: {text[:200]!r}"
            reasons.add(ours[0])
    return reasons


@pytest.fixture(scope="module")
def crawled(shared_data: Path) -> list[str]:
    """300 documents of C4, and the main texts of real pages, unfiltered."""
    texts = [json.loads(line)["text"] for line in (shared_data / "text/c4-300.jsonl").open()]
    pages = pq.read_table(shared_data / "web/readability-130.parquet", columns=["html"])
    html = [(page.as_py(), "") for page in pages["html"]]
    for archive in ("pages-0", "pages-1", "commoncrawl-2020-34"):
        documents, _, _ = read_all("warc", str(shared_data / f"web/{archive}.warc.gz"))
        html += [(document.html or b"", document.url) for document in documents]
    for content, url in html:
        found = main_text(content, url, ExtractConfig())
        if not isinstance(found, Rejection):
            texts.append(found[1])
    assert len(texts) > 450
    return texts


EVERY = pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.soak)])
"""A page in five in `make test`."""


@EVERY
def test_decisions_reasons_and_texts_on_real_pages(crawled: list[str], every: int) -> None:
    reasons = assert_equal_decisions(crawled[::every])
    assert len(reasons) > (12 if every == 1 else 8), "the pages try many of the rules"


@EVERY
def test_words_on_real_pages(crawled: list[str], every: int) -> None:
    for text in crawled[::every]:
        assert Text(text).words.strings() == split_into_words(text)


@pytest.mark.parametrize("precision", [64, 32])
@pytest.mark.parametrize("function", ["xxhash", "sha1"])
def test_signatures_are_equal_bit_for_bit(
    crawled: list[str], function: str, precision: int, tmp_path: Path
) -> None:
    settings = HashConfig(precision=precision, hash_fc=function)
    oracle = MinhashDedupSignature(str(tmp_path), MinhashConfig(hash_config=settings))
    hasher = MinHasher(MinHashConfig(hash=function, precision=precision))
    for text in [*crawled[::5], "Ça va? Ä ö 日本語 ٣٫٤ two three four", "too short", ""]:
        shingles, signature = oracle.get_shingles(text), hasher.signature(text)
        if signature is None:
            assert shingles.size == 0
        else:
            assert np.array_equal(np.concatenate(oracle.get_signature(shingles)), signature)


# -- texts that nobody wrote -------------------------------------------------------------------
SPECIAL_CASES = [case for case in vocabulary()._tokenizer.rules if case.strip()]
PIECES = st.one_of(
    st.sampled_from(SPECIAL_CASES),
    st.sampled_from(list(".,;:!?()[]{}'\"’“”…-–—/\\*_<>=^|#•8DPOxo3")),
    st.sampled_from(
        ["word", "The", "U.S.", "10am", "1,000", "https://x.org/a?b=(c)", "日本。", "x:)", ":))"]
    ),
    st.sampled_from(["lorem ipsum", "JavaScript", "[12]", "[edit]", "privacy policy", "the", "and"]),
    st.text(max_size=4).filter(lambda text: not any(map(_is_surrogate, text))),
)
GAPS = st.sampled_from(["", " ", " ", " ", "  ", "\n", "\n\n", "\n\n\n", "\t", " ", "　", "\x1c", "\u2028"])


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


TEXTS = st.lists(st.tuples(PIECES, GAPS), max_size=25).map(
    lambda pieces: "".join(piece + gap for piece, gap in pieces)
)


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_words_and_sentences_of_any_text(text: str) -> None:
    assert vocabulary().words(text).strings() == split_into_words(text)
    for line in text.splitlines():
        assert vocabulary().sentences([line.strip()]) == len(split_into_sentences(line.strip()))


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.integers(1, 12), st.integers(0, 40))
def test_decisions_on_any_text(text: str, repeats: int, more: int) -> None:
    """Long enough to reach the later rules, repeated enough to try the rules about repetition."""
    prose = " ".join(f"The council of town{number} said that it would." for number in range(more))
    texts = (text, text * repeats, f"{prose}\n{text}", f"{prose}\n" + text * repeats)
    # datatrove divides by the number of words
    assert_equal_decisions([whole for whole in texts if any(map(str.split, whole.splitlines()))])
