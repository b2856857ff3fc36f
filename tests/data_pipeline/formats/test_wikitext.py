"""Wikitext as readers see it."""

from __future__ import annotations

import pytest

from headwater.data_pipeline.formats.wikitext import plain_text


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("'''Bold''' and ''italic'' and '''''both'''''", "Bold and italic and both"),
        (
            "a [[River|river]] of [[France]]s and [[:Category:Rivers]]",
            "a river of Frances and Category:Rivers",
        ),
        ("x [[File:a.jpg|thumb|A [[river]] here]] y [[Category:Rivers]] [[Datei:b.png]]", "x  y"),
        ("[[de:Fluss]]\n[[Star Trek: First Contact]]", "Star Trek: First Contact"),
        ("a {{cite|{{nested|1}}|title=[[x]]}}b", "a b"),
        ("before\n{| class=x\n|-\n| a || {{t}}\n|}\nafter", "before\n\nafter"),
        ("said<ref name=a>{{cite}}</ref> so<ref name=b /> it was<!-- no -->.", "said so it was."),
        ("== History ==\nIt began.\n=== Later ===", "History\nIt began.\nLater"),
        ("* one\n** two\n# three\n: four", "- one\n- two\n- three\nfour"),
        ("see [https://example.org/a the page] or [//example.org]", "see the page or"),
        ("<math>a^2 {b}</math> and <nowiki>[[raw]] {{x}}</nowiki>", "$a^2 {b}$ and [[raw]] {{x}}"),
        ("<pre>\nif a:\n    b &lt; c\n</pre>", "if a:\n    b < c"),
        ("a&nbsp;b &amp; c<br/>d __NOTOC__", "a\u00a0b & c\nd"),
        ("open {{template and [[link", "open template and link"),
        ("closed }} and ]] there", "closed  and  there"),
    ],
)
def test_wikitext_is_read_as_a_reader_sees_it(wikitext: str, expected: str) -> None:
    assert plain_text(wikitext, ["datei", "kategorie"]) == expected


@pytest.mark.parametrize(
    "piece",
    ["{{", "[[a|", "<ref>", "<!--", "{|", "'''", "[http://a ", "[http://", "a", "<math>", "= ", "<a", "]]"],
)
def test_no_page_takes_more_than_linear_time(piece: str) -> None:
    assert len(plain_text(piece * 50_000)) <= 50_000 * len(piece)
