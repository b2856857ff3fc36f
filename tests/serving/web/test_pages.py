"""URLs in questions, and what is searched for."""

from __future__ import annotations

import numpy as np
import pytest

from headwater.serving.web.pages import Page, named_urls, provider_query, query_among


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("What does https://a.example/x say?", ["https://a.example/x"]),
        ("See (http://a.example/x), please.", ["http://a.example/x"]),
        ("https://en.example/wiki/Alder_(town)", ["https://en.example/wiki/Alder_(town)"]),
        ("[page](https://a.example/y).", ["https://a.example/y"]),
        ("<https://a.example/?q=1&r=2> and https://a.example/?q=1&r=2!", ["https://a.example/?q=1&r=2"]),
        ("https://a.example/" + ")" * 1000 + "]" * 900, ["https://a.example/"]),
        ("https://a.example/" + "x" * 1_000_000, []),
        ("HTTPS://A.example:8080/z", ["HTTPS://A.example:8080/z"]),
        ("ftp://a.example and a.example", []),
    ],
)
def test_urls_are_found_without_what_stands_around_them(text: str, urls: list[str]) -> None:
    assert named_urls(text) == urls


def test_a_provider_gets_the_question_without_urls_and_within_its_limits() -> None:
    assert provider_query("What does https://a.example/x say of bridges?") == "What does say of bridges?"
    long = provider_query("extraordinary " * 500)
    assert len(long) <= 400 and len(long.split()) <= 50


def test_a_question_that_only_asks_for_a_page_is_about_its_title() -> None:
    pages = [Page("https://a.example/", "Bridge opened in Alder", (), np.zeros((0, 2)))]
    assert query_among("Summarise https://a.example/", pages) == "Bridge opened in Alder"
    assert query_among("https://a.example/", pages) == "Bridge opened in Alder"
    asked = "Who paid for it, says https://a.example/?"
    assert query_among(asked, pages).startswith("Who paid for it")
