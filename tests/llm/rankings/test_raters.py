"""Raters who flood, guess, invert or do not read are named; those who follow the common rule are not."""

from __future__ import annotations

import pytest

from headwater.llm.rankings.raters import Summary, summarise, tail
from tests.llm.rankings.people import People


def with_a_bad_one(seed: int = 0, count: int = 120, **how: float) -> Summary:
    people = People(seed)
    items = people.items(count)
    honest = [ranking for name in ("anna", "ben", "cleo") for ranking in people.rank(name, items, 0.85)]
    return summarise([*honest, *people.rank("bad", items, **how)] if how else honest)


def faults(found: Summary) -> dict[str, list[str]]:
    return {rater.name: rater.faults for rater in found.raters if rater.faults}


@pytest.mark.parametrize(
    ("how", "fault"),
    [
        ({"right": 0.5}, "agrees by chance with the others"),
        ({"right": 0.0}, "disagrees with the others"),
        ({"first": True}, "prefers a place: the first answer shown in 120 of 120"),
        ({"seconds": 0.5, "right": 0.85}, "floods: a ranking every 0.5 s"),
    ],
)
def test_who_cannot_be_believed_is_named_with_the_reason(how: dict[str, float], fault: str) -> None:
    found = faults(with_a_bad_one(**how))
    assert list(found) == ["bad"] and any(fault in line for line in found["bad"])


def test_honest_raters_are_not_named() -> None:
    """Of 40 groups of three raters who err in 15 % of items, none is accused."""
    assert [faults(with_a_bad_one(seed)) for seed in range(40)] == [{}] * 40


def test_one_of_several_raters_may_not_decide_alone() -> None:
    people = People()
    few, many = people.items(20), people.items(200)
    found = summarise([*people.rank("anna", few), *people.rank("ben", few), *people.rank("cleo", many)])
    assert faults(found) == {"cleo": ["floods: 83% of all rankings are this rater's"]}
    assert faults(summarise(list(people.rank("cleo", many)))) == {}  # who is alone floods nobody


def test_who_contradicts_oneself_is_named() -> None:
    people = People(3)
    items = people.items(40)
    said = [r for name in ("anna", "ben") for _ in range(2) for r in people.rank(name, items, 0.97)]
    said += [r for _ in range(2) for r in people.rank("bad", items, 0.5)]
    assert any("contradicts oneself" in line for line in faults(summarise(said))["bad"])


def test_the_summary_counts_what_is_there() -> None:
    found = with_a_bad_one()
    assert (found.rankings, found.ties, found.shared_items) == (360, 0, 120)
    assert 0.3 < found.alpha < 0.9 and found.raters[0].seconds == 60
    empty = summarise([])
    assert (empty.rankings, empty.alpha, empty.raters, empty.retest) == (0, None, [], (0, 0))


def test_tail_of_the_binomial_distribution() -> None:
    """10 or fewer heads in 20 throws: (1 + C(20,10) / 2^20) / 2."""
    assert tail(10, 20, 0.5) == pytest.approx((1 + 184756 / 2**20) / 2)
    assert tail(4000, 4000, 0.5) == pytest.approx(1) and tail(0, 5000, 0.5) == 0
