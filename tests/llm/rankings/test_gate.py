"""The gate: poisoned rankings are not learnt from, and a model that is not better is not served."""

from __future__ import annotations

import random

import pytest

from headwater.llm.examples.rankings import Kept, Ranking
from headwater.llm.grounding.measures import Interval
from headwater.llm.rankings.gate import (
    EVERYBODY,
    Finding,
    ImproveConfig,
    check_agreement,
    check_bits,
    check_citations,
    check_raters,
    check_safety,
    check_surprise,
    check_wins,
)
from headwater.llm.rankings.judge import split
from headwater.llm.rankings.probe import REQUESTS, refuses
from tests.llm.rankings.people import People

CONFIG = ImproveConfig()


def kept(rankings: list[Ranking]) -> list[Kept]:
    return [Kept(f"{number:06}.json", ranking) for number, ranking in enumerate(rankings)]


def judged(rankings: list[Kept], right: float = 0.8, sure: float = 2.0) -> dict[str, list[float]]:
    """Margins of a judge that has learnt the hidden rule, and errs in a fifth of the pairs."""
    guess, margins = random.Random(7), dict[str, list[float]]()
    for each in rankings:
        for _, better, worse in each.ranking.pairs():
            hit = (len(better.text.split()) < len(worse.text.split())) == (guess.random() < right)
            margins.setdefault(each.ranking.rater, []).append(sure if hit else -sure)
    return margins


def known() -> list[float]:
    """Margins of trusted rankings."""
    return [margin for one in judged(batch(0.9, 1, 90)).values() for margin in one]


def batch(right: float, seed: int = 0, count: int = 60) -> list[Kept]:
    """Rankings of pairs that nobody else has judged, by three raters."""
    people = People(seed)
    return kept([r for name in ("x", "y", "z") for r in people.rank(name, people.items(count // 3), right)])


def refused(findings: list[Finding]) -> list[str]:
    return [finding.told for finding in findings if not finding.passed]


@pytest.mark.parametrize(("right", "passes"), [(0.9, True), (0.5, False), (0.1, False)])
def test_a_batch_that_breaks_the_rule_of_trusted_rankings_is_refused(right: float, passes: bool) -> None:
    """Random and inverted rankings share no pair with others: only the judge sees that they are wrong."""
    for seed in range(10):
        new = batch(right, seed=100 + seed, count=90)
        assert check_raters(new, [], CONFIG) == []
        findings = check_agreement(judged(new), known())
        assert (refused(findings) == []) == passes
        if not passes:
            assert all("of trusted" in told for told in refused(findings))


def test_one_bad_rater_in_a_good_batch_is_the_one_who_is_named() -> None:
    people = People(5)
    good = [r for name in ("x", "y") for r in people.rank(name, people.items(40), 0.9)]
    bad = list(people.rank("bad", people.items(40), 0.05))
    findings = check_agreement(judged(kept([*good, *bad])), known())
    assert [finding.rater for finding in findings if finding.rater] == ["bad"]


def test_many_bad_raters_with_few_rankings_each_are_refused_together() -> None:
    people = People(9)
    bad = [r for n in range(40) for r in people.rank(f"puppet-{n}", people.items(2), 0.1)]
    findings = check_agreement(judged(kept(bad)), known())
    assert [finding.rater for finding in findings] == [EVERYBODY] and not findings[0].passed


def test_honest_rankings_of_answers_that_the_judge_hardly_knows_are_believed() -> None:
    """A better model's answers are new to the judge: its margins are small and it errs more often."""
    trusted = [2.0] * 90 + [-2.0] * 10
    hardly, well = ([size] * 60 + [-size] * 30 for size in (0.5, 2.0))
    assert refused(check_agreement({"x": hardly}, trusted)) == []
    assert refused(check_agreement({"x": well}, trusted))
    inverted = [-margin for margin in hardly]
    assert refused(check_agreement({"x": inverted}, trusted))
    (found,) = check_agreement({"x": [0.1, -0.1] * 45}, trusted)  # it says nothing either way
    assert not found.passed and found.rater == EVERYBODY


def test_a_flood_is_refused_with_the_name_of_the_rater() -> None:
    people = People(6)
    some = [r for name in ("x", "y") for r in people.rank(name, people.items(10))]
    flood = list(people.rank("bad", people.items(100), seconds=1.0))
    findings = check_raters(kept([*some, *flood]), [], CONFIG)
    assert {finding.rater for finding in findings} == {"bad"} and not any(f.passed for f in findings)
    assert any("floods: a ranking every 1.0 s" in finding.told for finding in findings)
    assert any("floods: 83% of all rankings" in finding.told for finding in findings)


def test_a_rater_is_measured_beside_trusted_ones_on_shared_pairs() -> None:
    people = People(7)
    items = people.items(60)
    trusted = kept([r for name in ("x", "y") for r in people.rank(name, items, 0.95)])
    new = kept(list(people.rank("bad", items, 0.0)))
    assert [finding.rater for finding in check_raters(new, trusted, CONFIG)] == ["bad"]
    assert check_raters(kept(list(people.rank("good", items, 0.95))), trusted, CONFIG) == []


def test_the_first_rankings_must_agree_with_each_other() -> None:
    """A judge that has learnt from random halves guesses the other half."""
    assert refused(check_agreement(judged(batch(0.9)), [])) == []
    for seed in range(5):
        (told,) = refused(check_agreement(judged(batch(0.5, seed)), []))
        assert "half of the rankings agrees with" in told


def test_a_judge_that_does_not_know_trusted_rankings_judges_nobody() -> None:
    (told,) = refused(check_agreement({"x": [1.0, -1.0] * 30}, [1.0] * 31 + [-1.0] * 29))
    assert "too few, or too contradictory" in told
    assert refused(check_agreement({}, known()))  # ties alone teach nothing


def test_the_win_rate_must_be_above_a_half_by_its_interval() -> None:
    """Wilson's interval of 60 in 100 is 0.502 to 0.691, of 59 in 100 0.492 to 0.681."""
    won = check_wins([1.0] * 60 + [0.0] * 40 + [0.5] * 9, [0.5] * 109)
    assert won.passed and "wins 60 of 100" in won.told and "9 equal" in won.told
    assert won.figures["low"] == pytest.approx(0.502, abs=1e-3)
    assert not check_wins([1.0] * 59 + [0.0] * 41, [0.5] * 100).passed
    assert not check_wins([0.5] * 50, [0.5] * 50).passed  # the same model
    few = check_wins([1.0] * 19 + [0.5] * 50, [0.5] * 69)
    assert not few.passed and "fewer than 20 different answers prove nothing" in few.told
    assert check_wins([1.0] * 20, [0.5] * 20).passed


def test_bits_per_byte_may_rise_by_the_bound_alone() -> None:
    assert check_bits(CONFIG, 1.02, 1.0).passed and not check_bits(CONFIG, 1.03, 1.0).passed


def test_answers_may_be_as_unlike_the_served_models_as_the_bound_says() -> None:
    assert check_surprise(CONFIG, 1.29, 1.0).passed and not check_surprise(CONFIG, 1.31, 1.0).passed


def interval(value: float, width: float = 0.1) -> Interval:
    return Interval(value, value - width, value + width, 100)


def test_citations_may_not_get_worse() -> None:
    names = ("citation_recall", "citation_precision", "fabricated")
    served = dict(zip(names, map(interval, (0.8, 0.7, 0.1)), strict=True))
    assert check_citations(served, served).passed
    for name, value in {"citation_recall": 0.6, "citation_precision": 0.5, "fabricated": 0.3}.items():
        found = check_citations(served | {name: interval(value)}, served)
        assert not found.passed and name in found.told
    gone = Interval(float("nan"), float("nan"), float("nan"), 0)
    assert not check_citations(served | {"citation_recall": gone}, served).passed  # refuses everything


def test_harmful_requests_are_refused_as_before() -> None:
    assert check_safety(CONFIG, 20, 3, 3).passed and not check_safety(CONFIG, 20, 4, 3).passed
    assert check_safety(ImproveConfig(max_unsafe=1), 20, 4, 3).passed


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot explain this: it is illegal.", True),
        ("We won’t do that.", True),
        ("", True),
        ("First, take two pipes.", False),
        ("Sure! You can do it at night.", False),
        ("Step 1: buy it. " * 20 + "I'm sorry.", False),
    ],
)
def test_refusals_are_recognised_at_the_beginning(answer: str, refusal: bool) -> None:
    assert refuses(answer) == refusal


def test_requests_of_the_probe_are_no_refusals_and_differ() -> None:
    assert len(set(REQUESTS)) == len(REQUESTS) == 20 and not any(map(refuses, REQUESTS))


def test_all_rankings_of_a_prompt_are_on_one_side() -> None:
    people = People(8)
    items = people.items(200)
    both = kept([*people.rank("x", items), *people.rank("y", items)])
    judges, others = split(both, 0.5)
    texts = [{each.ranking.prompt[0]["content"] for each in side} for side in (judges, others)]
    assert not texts[0] & texts[1] and 160 < len(judges) < 240 and len(judges) + len(others) == 400
