"""Texts and pages constructed to be slow: each gets a verdict or a rejection quickly, and the next document
is processed normally."""

from __future__ import annotations

import time
import unicodedata
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.data_pipeline.clean.score_documents import Measured, Measurer
from headwater.data_pipeline.clean.scores import Signer
from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.filters.classifiers.toxicity import ToxicityConfig
from headwater.data_pipeline.filters.language import LanguageConfig
from headwater.data_pipeline.filters.url import UrlConfig
from headwater.data_pipeline.text.main_text.extract import ExtractConfig
from headwater.data_pipeline.text.normalise import MARKS_ON_ONE, normalise, without_heaps_of_marks
from headwater.data_pipeline.text.words import spacy_words
from headwater.data_pipeline.text.words.document_text import Text
from headwater.data_pipeline.verdict import Refused
from tests.data_pipeline.corpora import article


class NoLastWord(LanguageConfig):
    """Identifies the language, and lets the later steps measure texts in any."""

    last_word: ClassVar[bool] = False


CONFIG = CleanConfig(
    language=NoLastWord(),
    extract=ExtractConfig(repair=True),
    toxicity=ToxicityConfig(languages=("en",)),
    url=UrlConfig(words=("casino",)),
)
HANG_SECONDS = 60

PIECES = {
    "quotation marks": '"',
    "brackets": "[",
    "brackets with digits": "[1",
    "apostrophes": "a'",
    "colons": "ab:",
    "emoticons": ":) ",
    "different emoticons": "8) :( :-) ",
    "hyphens": "a-b-",
    "one word": "x",
    "line ends": "a\n",
    "blank lines": "\n",
    "carriage returns": "\r",
    "blanks": " ",
    "blank and line end": " \n",
    "indented lines": "\n \tab c",
    "combining marks": "\u0301",
    "disordered marks": "e\u0301\u0323",
    "zeros": "a\0",
    "surrogates": "\ud800",
    "surrogates apart": "\udc00 ",
    "digits": "1",
    "card digits": "4 ",
    "addresses": "1.2.3.",
    "long addresses": "ab:cd:",
    "mail": "a@a.",
    "mail names": "a" * 64 + ".",
    "mail domains": "@a-",
    "telephones": "+1 (2",
    "lost marks": '"?a',
    "replaced marks": '"\ufffda',
    "lorem": "lorem ips",
    "policies": "cookie polic",
    "right to left": "\u202e",
    "no spaces": "日本語。",
}


@pytest.fixture(scope="module")
def measurer() -> Measurer:
    measure = Measurer(CONFIG)
    measure(Document("0", "", "", article(0)))  # loads and compiles what there is
    return measure


def through_all(measurer: Measurer, text: str) -> tuple[Measured, float]:
    """As the stage's worker does it."""
    started = time.process_time()
    found = measurer(Document("1", "https://example.org/", "", text))
    Signer(CONFIG)(found.document.text if found.stop is None else "")
    measurer.redact(found)
    return found, time.process_time() - started


@pytest.mark.timeout(3 * HANG_SECONDS)
@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES.keys())
def test_texts_of_repeated_pieces_do_not_hang(piece: str, measurer: Measurer) -> None:
    expected = measurer(Document("2", "", "", article(1)))
    for text in (piece * (300_000 // len(piece)), f"{article(2)} {piece * (100_000 // len(piece))} end"):
        found, seconds = through_all(measurer, text)
        assert seconds < HANG_SECONDS
        assert found.stop is None or found.stop[1].reason in ("no_text", "too_many_marks")
        assert not any(map(_is_surrogate, found.document.text))
    after = measurer(Document("2", "", "", article(1)))
    assert (after.scores, after.document) == (expected.scores, expected.document)


def test_a_million_quotation_marks_and_a_word_of_50_mb_have_their_reasons(measurer: Measurer) -> None:
    marks, seconds = through_all(measurer, '"' * 1_000_000)
    assert marks.stop is not None and marks.stop[1].reason == "too_many_marks"
    word, more = through_all(measurer, "x" * 50_000_000)
    limit = ExtractConfig().max_characters
    assert word.stop is not None and word.stop[0] == "extract"
    assert (word.stop[1].reason, word.stop[1].threshold) == ("too_long", limit)
    just_fits, _ = through_all(measurer, "x" * limit)
    assert just_fits.stop is None
    assert seconds + more < HANG_SECONDS


def test_a_page_of_100_000_levels_has_its_reason_and_the_next_is_read(measurer: Measurer) -> None:
    deep = b"<html><body>" + b"<div>" * 100_000 + b"<p>deep</p>" + b"</div>" * 100_000
    found = measurer(Document("1", "", "", "", html=deep))
    assert found.stop is not None and found.stop[1].reason == "html_too_deep"
    good = f"<html><body><article><p>{article(1)}</p></article></body></html>".encode()
    assert measurer(Document("2", "", "", "", html=good)).document.text == article(1)


def test_whether_a_text_is_refused_does_not_depend_on_what_came_before() -> None:
    """A cached piece counts as much as a new one."""
    piece = '("' * 300
    text = " ".join([piece] * (spacy_words.BURDEN // spacy_words.burden(piece) + 1))
    for _ in range(2):
        with pytest.raises(Refused):
            Text(text).words  # noqa: B018
        assert len(Text(text.removesuffix(piece)).words) > 1000


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ae\u0301\u0323\u0591 \u3099か"), max_size=120))
def test_only_the_first_thirty_of_consecutive_marks_are_kept(text: str) -> None:
    expected, run = "", 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        expected += character if run <= MARKS_ON_ONE else ""
    assert without_heaps_of_marks(text) == expected
    assert normalise(normalise(text)) == normalise(text)


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"
