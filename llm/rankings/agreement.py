"""How far people agree with each other and with themselves on which of two answers is better."""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from headwater.llm.examples.rankings import Ranking

Item = str
"""A prompt with two answers, in whichever order they were shown."""


@dataclass(frozen=True)
class Judgement:
    """What one person said of one item.

    `value`: -1 if the first answer by its text is better, 1 if the second, 0 for a tie.
    """

    item: Item
    rater: str
    value: int


def judgements(rankings: Iterable[Ranking]) -> list[Judgement]:
    """One judgement per pair of answers, in order."""
    found = []
    for ranking in rankings:
        for a, b in itertools.combinations(range(len(ranking.answers)), 2):
            texts = [ranking.answers[a].text, ranking.answers[b].text]
            first, second = (a, b) if texts[0] <= texts[1] else (b, a)
            value = int(np.sign(ranking.ranks[first] - ranking.ranks[second]))
            item = json.dumps([ranking.prompt, sorted(texts)], sort_keys=True)
            found.append(Judgement(item, ranking.rater, value))
    return found


def by_item(found: Iterable[Judgement]) -> dict[Item, dict[str, int]]:
    """Item → rater → value. A rater who judged an item again has changed their mind: the last one counts."""
    items: dict[Item, dict[str, int]] = {}
    for each in found:
        items.setdefault(each.item, {})[each.rater] = each.value
    return items


def krippendorff_alpha(
    units: Sequence[Sequence[float]], level: Literal["nominal", "ordinal", "interval"]
) -> float | None:
    """Krippendorff's alpha: 1 is perfect agreement, 0 what chance gives, below 0 is systematic disagreement.

    `units`: the values that each unit was given, one per rater who judged it; a unit with one says nothing.
    Follows Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", sections D and E. None if no unit
    has two values, or all values are equal.
    """
    pairable = [unit for unit in units if len(unit) > 1]
    values = sorted({value for unit in pairable for value in unit})
    if len(values) < 2:
        return None
    place = {value: number for number, value in enumerate(values)}
    coincidences = np.zeros((len(values), len(values)))
    for unit in pairable:
        for a, b in itertools.permutations(unit, 2):
            coincidences[place[a], place[b]] += 1 / (len(unit) - 1)
    totals = coincidences.sum(axis=1)
    count = totals.sum()
    difference = _differences(np.array(values), totals, level)
    observed = (coincidences * difference).sum() / count
    expected = (np.outer(totals, totals) * difference).sum() / (count * (count - 1))
    return float(1 - observed / expected)


def _differences(values: np.ndarray, totals: np.ndarray, level: str) -> np.ndarray:
    """[values, values] squared differences of a level of measurement."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "ordinal":
        between = np.cumsum(totals) - totals / 2  # ranks: the values below, and half of its own
        return (between[:, None] - between[None, :]) ** 2
    return (values[:, None] - values[None, :]) ** 2


def retest(found: Iterable[Judgement]) -> dict[str, tuple[int, int]]:
    """Rater → (equal, all) judgements of an item that the rater had judged before."""
    before: dict[tuple[Item, str], int] = {}
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for each in found:
        earlier = before.get((each.item, each.rater))
        if earlier is not None:
            counts[each.rater][0] += earlier == each.value
            counts[each.rater][1] += 1
        before[each.item, each.rater] = each.value
    return {rater: (equal, total) for rater, (equal, total) in counts.items()}


def with_others(
    items: Mapping[Item, Mapping[str, int]], weights: Mapping[str, float]
) -> dict[str, list[bool]]:
    """Rater → for each item that others judged too, whether the rater agrees with their weighted majority.

    Ties, of the rater or of the others' votes, are left out: they are no side to agree with.
    """
    agreed: dict[str, list[bool]] = {}
    for votes in items.values():
        for rater, value in votes.items():
            others = sum(weights.get(name, 1.0) * vote for name, vote in votes.items() if name != rater)
            if value and others:
                agreed.setdefault(rater, []).append((value > 0) == (others > 0))
    return agreed


def rater_weights(
    items: Mapping[Item, Mapping[str, int]], believed: Collection[str] = (), rounds: int = 10
) -> dict[str, float]:
    """Rater → weight of a vote, 0 for one who agrees with the others no more often than chance.

    It begins with those who are `believed`, or with the common rule that most raters share (`_common_rule`).
    Agreement is then counted with the others' majority, weighted by what the round before found, so that
    those who contradict most people do not count against them. The weight is the log-odds of the agreement,
    which is optimal for independent raters (Nitzan and Paroush 1982; Berend and Kontorovich 2015), with one
    agreement and one disagreement added, over that of the best rater. Without shared items it is 1.
    """
    raters = sorted({rater for votes in items.values() for rater in votes})
    weights = (
        {rater: float(rater in believed) for rater in raters} if believed else _common_rule(items, raters)
    )
    for _ in range(rounds):
        odds = {
            rater: max(0.0, float(np.log((sum(same) + 1) / (len(same) - sum(same) + 1))))
            for rater, same in with_others(items, weights).items()
        }
        best = max(odds.values(), default=0.0)
        if not best:
            break
        weights = {rater: odds[rater] / best if rater in odds else 1.0 for rater in raters}
    return weights


def _common_rule(items: Mapping[Item, Mapping[str, int]], raters: Sequence[str]) -> dict[str, float]:
    """Each rater's part in the rule that most share; 1 for all if there is none.

    It is the first eigenvector of the raters' mean agreement (Parisi et al. 2014, "Ranking and combining
    multiple predictors without labeled data"): who contradicts the others gets a negative part, here 0.
    """
    place = {rater: number for number, rater in enumerate(raters)}
    sums, counts = np.zeros((2, len(raters), len(raters)))
    for votes in items.values():
        for (one, a), (other, b) in itertools.permutations(votes.items(), 2):
            if a and b:
                sums[place[one], place[other]] += np.sign(a * b)
                counts[place[one], place[other]] += 1
    if not counts.any():
        return dict.fromkeys(raters, 1.0)
    first = np.linalg.eigh(sums / np.maximum(counts, 1))[1][:, -1]
    if abs(first.sum()) < 1e-6:  # as many on one side as on the other
        return dict.fromkeys(raters, 1.0)
    first = np.maximum(first * np.sign(first.sum()), 0)
    alone = ~counts.any(axis=1)
    parts = np.where(alone, 1.0, first / first.max())
    return dict(zip(raters, parts.tolist(), strict=True))
