"""Agreement among raters, against published values."""

from __future__ import annotations

import pytest

from headwater.llm.examples.rankings import Ranking
from headwater.llm.rankings.agreement import (
    by_item,
    judgements,
    krippendorff_alpha,
    rater_weights,
    retest,
    with_others,
)
from tests.llm.rankings.people import People

BINARY = [(0, 1), (1, 1), (0, 1), (0, 0), (0, 0), (0, 1), (0, 0), (0, 0), (1, 0), (0, 0)]
"""Krippendorff 2011, section A: two observers, ten units."""
FOUR_OBSERVERS = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
"""Krippendorff 2011, section C: four observers, twelve units, some values missing."""


def units() -> list[list[float]]:
    rows = [line.split() for line in FOUR_OBSERVERS.split("\n") if line]
    return [[float(value) for value in column if value != "."] for column in zip(*rows, strict=True)]


def test_alpha_equals_the_published_values() -> None:
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"."""
    assert krippendorff_alpha(BINARY, "nominal") == pytest.approx(0.095, abs=5e-4)
    assert krippendorff_alpha(units(), "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(units(), "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(units(), "interval") == pytest.approx(0.849, abs=5e-4)


def test_alpha_at_its_ends() -> None:
    assert krippendorff_alpha([(1, 1), (2, 2), (1, 1)], "ordinal") == 1.0
    assert krippendorff_alpha([(1, -1), (-1, 1)] * 20, "nominal") < -0.9
    assert krippendorff_alpha([(1,), (2,)], "nominal") is None  # nobody shares a unit
    assert krippendorff_alpha([(1, 1), (1, 1)], "nominal") is None  # nothing varies


def ranking(texts: list[str], ranks: list[int], rater: str = "a") -> Ranking:
    prompt = [{"role": "user", "content": "?"}]
    answers = [{"text": text} for text in texts]
    return Ranking(prompt=prompt, answers=answers, ranks=ranks, rater=rater, source="s")


def test_the_order_in_which_answers_were_shown_does_not_matter() -> None:
    one, other = judgements([ranking(["x", "y"], [1, 2]), ranking(["y", "x"], [2, 1])])
    assert one == other and one.value == -1
    (tie,) = judgements([ranking(["y", "x"], [1, 1])])
    assert (tie.item, tie.value) == (one.item, 0)
    assert [each.value for each in judgements([ranking(["x", "y", "z"], [1, 2, 2])])] == [-1, -1, 0]


def test_repeated_items_show_whether_a_rater_agrees_with_oneself() -> None:
    said = [ranking(["x", "y"], ranks) for ranks in ([1, 2], [1, 2], [2, 1])]
    found = judgements([*said, ranking(["x", "y"], [1, 2], "b")])
    assert retest(found) == {"a": (1, 2)}
    assert by_item(found) == {found[0].item: {"a": 1, "b": -1}}  # the last word counts


def test_weights_find_those_who_follow_the_common_rule_among_many_who_do_not() -> None:
    """Two of five raters contradict or guess: with one vote each they would spoil many majorities."""
    people = People(1)
    items = people.items(80)
    shares = {"anna": 0.95, "ben": 0.9, "cleo": 0.9, "guesses": 0.5, "inverts": 0.05}
    found = by_item(
        judgements([r for name, right in shares.items() for r in people.rank(name, items, right)])
    )
    weights = rater_weights(found)
    assert min(weights["anna"], weights["ben"], weights["cleo"]) > 0.6
    assert weights["guesses"] < 0.2 and weights["inverts"] == 0
    agreed = with_others(found, weights)
    assert sum(agreed["anna"]) / len(agreed["anna"]) > 0.8
    assert sum(agreed["inverts"]) / len(agreed["inverts"]) < 0.15


def test_two_who_agree_outweigh_one_who_contradicts_both() -> None:
    """Each of the two has one for and one against: the majority of the others says nothing."""
    people = People(7)
    items = people.items(60)
    shares = {"anna": 0.95, "ben": 0.95, "inverts": 0.0}
    found = by_item(
        judgements([r for name, right in shares.items() for r in people.rank(name, items, right)])
    )
    weights = rater_weights(found)
    assert weights["inverts"] == 0 < min(weights["anna"], weights["ben"])
    believed = rater_weights(found, believed=["anna"])
    assert believed["inverts"] == 0 < min(believed["anna"], believed["ben"])


def test_a_rater_without_shared_items_is_not_judged() -> None:
    people = People(2)
    found = by_item(judgements([*people.rank("a", people.items(5)), *people.rank("b", people.items(5))]))
    assert rater_weights(found) == {"a": 1.0, "b": 1.0} and with_others(found, {}) == {}
