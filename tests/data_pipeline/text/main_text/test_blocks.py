"""Blocks of pages, and the learnt model that chooses among them."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest

from headwater.data_pipeline.text.main_text.block_features import (
    context,
    features,
    name_groups,
    name_score,
    name_words,
)
from headwater.data_pipeline.text.main_text.block_model import LEAF, Trees, block_model, chosen, quality_text
from headwater.data_pipeline.text.main_text.blocks import TAGS, joined, read_blocks

PAGE = (
    "<body>loose <b>text</b><div class='side'><ul><li><a href='/'>Home</a></li><li>Us</li></ul></div>"
    "<script>no()</script><main><p>One <a href='x'>two</a> three</p><pre>a\n  b</pre>line<br>end"
    "<table><tr><td>r1</td><td>r2</td></tr><tr><td>r3</td></tr></table></main></body>"
)


def test_blocks_are_the_runs_of_text_between_block_elements() -> None:
    page = read_blocks(PAGE)
    expected = ["loose text", "Home", "Us", "One two three", "a\n  b", "line\nend", "r1", "r2", "r3"]
    assert page.text == expected
    assert page.link_characters == [0, 4, 0, 3, 0, 0, 0, 0, 0]
    tags = [TAGS[page.tag[node]] for node in page.node]
    assert tags == ["body", "li", "li", "p", "pre", "main", "td", "td", "td"]


def test_an_element_covers_a_range_of_blocks() -> None:
    page = read_blocks(PAGE)
    covered = {
        TAGS[tag]: page.text[first:end]
        for tag, first, end in zip(page.tag, page.first, page.end, strict=True)
        if TAGS[tag] in ("body", "ul", "main")
    }
    assert covered == {"body": page.text, "ul": ["Home", "Us"], "main": page.text[3:]}


def test_cells_of_a_row_are_joined_by_a_blank_and_paragraphs_by_an_empty_line() -> None:
    page = read_blocks(PAGE)
    assert joined(page, [1, 2]) == "Home\nUs"
    assert joined(page, [3, 6, 7, 8]) == "One two three\n\nr1 r2\nr3"
    assert joined(page, []) == ""


def test_text_for_readers_without_scripts_is_read() -> None:
    """Discourse's forums have their whole thread there."""
    assert read_blocks("<body><noscript><p>thread</p></noscript></body>").text == ["thread"]


def calls(html: str) -> int:
    """Calls of functions, in Python and C, that judging a page's blocks takes."""
    counted = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        page = read_blocks(html)
        context(page, features(page, name_score({}), "title")[:, 0])
    finally:
        sys.setprofile(None)
    return counted


LONG_PAGES = {
    "numbered": lambda count: "".join(
        f"<div class=c{n} id=n{n}><p>Line {n}, of a page.</div>" for n in range(count)
    ),
    "nested": lambda count: "".join(f"<div id=n{n}>Line {n}, of a page." for n in range(count)),
    "table": lambda count: "<table>" + f"<tr>{'<td>A cell.' * 5}" * (count // 5),
}


@pytest.mark.parametrize("kind", LONG_PAGES)
def test_work_grows_with_the_blocks_and_is_little_for_each(kind: str) -> None:
    """Counted in calls, so that it does not depend on the machine: 90,000 blocks take seconds."""
    few, many = (calls(LONG_PAGES[kind](count)) for count in (500, 1500))
    assert many - few < 2.1 * few
    assert (many - few) / 1000 < 85


def test_numbered_names_are_looked_up_once() -> None:
    page = read_blocks(LONG_PAGES["numbered"](300))
    known = name_groups.cache_info().misses
    features(page, name_score({}), "")
    assert name_groups.cache_info().misses - known <= 2


def test_names_of_elements_are_split_into_words() -> None:
    assert name_words("postBody main-2  HTMLText") == {"post", "body", "main", "html", "text"}


@pytest.mark.parametrize("seed", range(5))
def test_no_other_choice_of_blocks_has_a_higher_expected_f1(seed: int) -> None:
    random = np.random.default_rng(seed)
    likely, size = random.random(9).astype(np.float32), random.integers(1, 200, 9)

    def expected(kept: tuple[int, ...]) -> float:
        mass = likely.astype(np.float64) * size
        return float(2 * mass[list(kept)].sum() / (size[list(kept)].sum() + mass.sum()))

    every = itertools.chain.from_iterable(itertools.combinations(range(9), n) for n in range(1, 10))
    assert expected(tuple(chosen(likely, size))) == pytest.approx(max(map(expected, every)))


def test_a_row_goes_left_where_its_feature_is_at_most_the_threshold() -> None:
    stump = Trees(
        np.array([1, LEAF, LEAF], np.int16),
        np.array([0.5, -2.0, 3.0], np.float32),
        np.array([1, 0, 0], np.int32),
        np.array([2, 0, 0], np.int32),
        np.array([0, 0], np.int32),  # the same tree twice: values are summed
    )
    found = stump.probability(np.array([[9, 0.5], [0, 0.6]], np.float32))
    assert found.tolist() == pytest.approx([1 / (1 + np.exp(4)), 1 / (1 + np.exp(-6))])


def test_a_page_says_of_which_kind_it_is() -> None:
    forum = '<script type="application/ld+json">{"@type": "QAPage"}</script>'
    assert read_blocks(f"<body>{forum}").kinds == (False, True, False, False)
    assert read_blocks('<meta property="og:type" content="article">x').kinds == (False, False, False, True)


def test_the_stored_model_fits_the_features_and_names_its_source() -> None:
    model, page = block_model(), read_blocks(PAGE)
    seen = features(page, model.score, "")
    assert seen.shape[0] == len(page.text) and np.isfinite(seen).all()
    assert model.features == seen.shape[1]
    assert "CC-BY-4.0" in model.source


@pytest.mark.parametrize(
    "html", ["<html><frameset></frameset></html>", "<!-- <p>x</p> -->", "<script>x</script>"]
)
def test_a_page_without_text_has_no_main_text(html: str) -> None:
    assert quality_text(html, "", {}) == ""
