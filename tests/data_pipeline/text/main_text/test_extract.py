"""Main text extraction in both settings: titles, charsets, limits, and recall on real pages."""

from __future__ import annotations

import statistics
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.corpus.extraction.scores import f1, gold_text
from headwater.data_pipeline.text.main_text import page
from headwater.data_pipeline.text.main_text.extract import ExtractConfig, Extractor, main_text
from headwater.data_pipeline.verdict import Rejection
from tests.data_pipeline.corpora import article

SETTINGS = (ExtractConfig(setting="quality"), ExtractConfig(setting="fast"))
BOTH = pytest.mark.parametrize("config", SETTINGS, ids=["quality", "fast"])
MENU = "<nav><a href='/'>Home</a><a href='/about'>About us</a></nav>"
BODY = f"<body>{MENU}<article><h1>Bridge <b>opens</b></h1><p>{article(1)}</p></article></body>"


def page_with(head: str, body: str = BODY) -> bytes:
    return f"<!DOCTYPE html><html><head>{head}</head>{body}</html>".encode()


@BOTH
@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (
            "<title>Bridge - News</title><meta property='og:title' content='The  bridge &amp; we'>",
            "The bridge & we",
        ),
        ("<title>\n Bridge -\n News </title><meta property='og:title' content=''>", "Bridge - News"),
        ("", "Bridge opens"),
        (f"<title>{'x' * 1000}</title>", "x" * page.TITLE_CHARACTERS),
    ],
    ids=["og:title", "title", "h1", "long"],
)
def test_the_title_is_the_first_of_three_that_is_there(
    head: str, expected: str, config: ExtractConfig
) -> None:
    found = main_text(page_with(head), "", config)
    assert not isinstance(found, Rejection)
    assert found[0] == expected
    assert article(1) in found[1] and "About us" not in found[1]


@BOTH
@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "cp1252"])
def test_both_settings_read_other_charsets(encoding: str, config: ExtractConfig) -> None:
    html = page_with('<meta charset="windows-1252">').decode().replace("Bridge", "Brücke").encode(encoding)
    found = main_text(html, "", config)
    assert not isinstance(found, Rejection) and found[0] == "Brücke opens"


@BOTH
@pytest.mark.parametrize(
    ("html", "reason"),
    [
        (b"<html><body></body></html>", "no_main_text"),
        (b"no tag, 1 < 2", "not_html"),
        (b"<html><body>" + b"<div>" * 100_000 + b"<p>deep</p>" + b"</div>" * 100_000, "html_too_deep"),
        (b"<html><body>" + b"<b>" * 100_000 + b"open", "html_too_deep"),
        (b"<html><body>" + b"<p>x" * 200_001, "html_too_many_elements"),
        (b"<html><body>" + b"x" * 8_000_001, "html_too_large"),
    ],
    ids=["empty", "text", "deep", "open", "many", "large"],
)
def test_pages_without_extracted_text_have_a_reason(html: bytes, reason: str, config: ExtractConfig) -> None:
    found = main_text(html, "", config)
    assert isinstance(found, Rejection) and found.reason == reason


def test_nesting_counts_open_elements_only() -> None:
    assert page.nesting("<div><p>one<p>two<br><img src=x><SPAN>three</SPAN></div>" * 50) == 2
    assert page.nesting("</div></div><div><section><a>x</a>") == 3
    assert page.nesting("<i>" * 500) == 500
    assert page.nesting("<i>" * 500, enough=500) == 0
    assert page.nesting("1 < 2") == 0


def test_the_deepest_page_that_is_parsed_is_done_in_time() -> None:
    """resiliparse is quadratic in the depth; at the limit it must still be fast."""
    levels = ExtractConfig().max_nesting - 10
    html = page_with("", "<body>" + "<div>" * levels + f"<p>{article(1)}</p>" + "</div>" * levels + "</body>")
    extract = Extractor(ExtractConfig(setting="fast"))
    try:
        assert extract(html, "")[1] == article(1)  # type: ignore[index]
    finally:
        extract.close()


def test_most_words_of_real_pages_are_found_and_little_else(shared_data: Path) -> None:
    """The mean that benchmarks/corpus/extraction prints; no page of these trained the model."""
    table = pq.read_table(shared_data / "web/readability-130.parquet")
    expected = [gold_text(html) for html in table["expected_html"].to_pylist()]
    for config, least in zip(SETTINGS, (0.92, 0.93), strict=True):
        found = [main_text(html, "", config) for html in table["html"].to_pylist()]
        texts = ["" if isinstance(result, Rejection) else result[1] for result in found]
        assert statistics.mean(map(f1, texts, expected)) >= least
