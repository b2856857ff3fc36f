"""datatrove 0.10.1 as FineWeb-2 ran it is the oracle in other languages: words, decisions, signatures."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.data_pipeline.dedup.minhash import MinHashConfig, MinHasher
from headwater.data_pipeline.text.words.document_text import Text
from headwater.data_pipeline.text.words.languages import Limits, language_of
from tests.data_pipeline.decided import decided
from tests.data_pipeline.languages import TEXTS

pytest.importorskip("datatrove", reason="datatrove is not installed")

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import split_into_words

NEEDS = {"ja": "sudachipy", "zh": "jieba", "th": "pythainlp", "hi": "indicnlp"}
LANGUAGES = [
    pytest.param(
        code,
        marks=pytest.mark.skipif(
            code in NEEDS and importlib.util.find_spec(NEEDS[code]) is None,
            reason=f"{NEEDS.get(code)} is not installed",
        ),
    )
    for code in ("de", "fr", "es", "ja", "zh", "ar", "hi", "th")
]
every_language = pytest.mark.parametrize("code", LANGUAGES)


def oracles(limits: Limits, label: str) -> dict[str, BaseFilter]:
    """The filters of fineweb-2-pipeline.py."""
    return {
        "gopher_repetition": GopherRepetitionFilter(
            language=label,
            dup_para_frac=0,
            dup_line_char_frac=0,
            dup_para_char_frac=0,
            dup_line_frac=limits.dup_line_frac,
            top_n_grams=limits.top_n_grams,
            dup_n_grams=limits.dup_n_grams,
        ),
        "fineweb": FineWebQualityFilter(
            language=label,
            short_line_thr=999,
            char_duplicates_ratio=0.1,
            line_punct_thr=limits.line_punct_thr,
            new_line_ratio=limits.new_line_ratio,
        ),
        "gopher_quality": GopherQualityFilter(
            language=label,
            max_avg_word_length=limits.max_avg_word_length,
            min_avg_word_length=limits.min_avg_word_length,
            stop_words=limits.stop_words,
            max_non_alpha_words_ratio=limits.max_non_alpha_words_ratio,
            min_stop_words=2,
        ),
    }


def assert_equal_decisions(code: str, texts: Sequence[str]) -> set[str | None]:
    """The reasons that were met."""
    language, reasons = language_of(code), set[str | None]()
    assert language.limits is not None
    for step, oracle in oracles(language.limits, language.label).items():
        for text, (reason, _) in zip(texts, decided(step, texts, language=code), strict=True):
            theirs = oracle.filter(Document(text=text, id=""))
            assert reason == (None if theirs is True else theirs[1]), f"{step}: {text[:200]!r}"
            reasons.add(reason)
    return reasons


def sentences(code: str) -> list[str]:
    return re.findall(r"[^.。।؟?]+[.。।؟?]?", TEXTS[code].replace("\n", " "))


@every_language
def test_decisions_are_those_of_fineweb_2(code: str) -> None:
    text, parts = TEXTS[code], sentences(code)
    made = [
        text,
        parts[0][:60],
        "\n".join([text] * 3),
        "\n".join(text.split()),
        "\n".join(dict.fromkeys(split_into_words(text, language_of(code).label))),
        text + "\n" + "\n".join(["1 2 3 4 5 6 7"] * 9),
        text + " " + " ".join(map(str, range(200))),
        "\n".join(["The bridge was opened by the mayor and the people of the town."] * 8),
        (parts[0] + " ") * 30,
    ]
    reasons = assert_equal_decisions(code, made)
    assert None in reasons and len(reasons) >= 4, "the texts try several rules"


@settings(max_examples=20, deadline=None)
@given(data=st.data())
@every_language
def test_words_of_any_order_of_sentences_and_marks(code: str, data: st.DataObject) -> None:
    pieces = st.sampled_from(
        [
            *sentences(code),
            *".,;:!?()\"«»„“…—–-/'’",
            "3,5",
            "1 , 000",
            "U.S.",
            "https://x.org/a?b=(c)",
            "d'",
            "8)",
        ]
    )
    gaps = st.sampled_from(["", " ", "  ", "\n", "\n\n", "\t", "　"])
    drawn = data.draw(st.lists(st.tuples(pieces, gaps), max_size=12))
    text = "".join(piece + gap for piece, gap in drawn)
    language = language_of(code)
    assert Text(text, language.words).words.strings() == split_into_words(text, language.label)


@every_language
def test_signatures_are_equal_bit_for_bit(code: str, tmp_path: Path) -> None:
    language = language_of(code)
    hashing = HashConfig(precision=64, hash_fc="xxhash")
    oracle = MinhashDedupSignature(str(tmp_path), MinhashConfig(hash_config=hashing), language=language.label)
    ours = MinHasher(MinHashConfig()).signature(TEXTS[code], language.words)
    assert np.array_equal(np.concatenate(oracle.get_signature(oracle.get_shingles(TEXTS[code]))), ours)
