"""Each rater's record: how much, how fast, how far in agreement. Those who cannot be believed are named."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from headwater.llm.examples.rankings import UNKNOWN_TIME, Ranking
from headwater.llm.grounding.measures import wilson
from headwater.llm.rankings.agreement import (
    by_item,
    judgements,
    krippendorff_alpha,
    rater_weights,
    retest,
    with_others,
)

UNLIKELY = 0.001
"""A share is called wrong if chance gives it less often: for one of ten raters once in a hundred looks."""
FEW = 10
"""Fewer rankings of a rater prove nothing."""
ONE_PLACE = 0.8
"""Share of choices of one place, by the end of its interval, that comes from not reading: places are random.
People's own preference for a place is weaker, and does no harm at random places."""
TOO_FAST_SECONDS = 3.0
"""Median time between two rankings in which two answers cannot have been read."""
FLOOD_SHARE = 0.5
"""Share of all rankings above which one of several raters decides alone."""


@dataclass(frozen=True)
class Rater:
    """What one rater's rankings show. Pairs of counts are (hits, all)."""

    name: str
    rankings: int
    ties: int
    agreement: tuple[int, int]
    """With the others' weighted majority, on shared items."""
    retest: tuple[int, int]
    """With oneself, on repeated items."""
    first_shown: tuple[int, int]
    """Blind rankings of two answers in which the first one shown is better."""
    seconds: float | None
    """Median time between two rankings; None for fewer than FEW."""
    weight: float
    faults: list[str] = field(default_factory=list)
    """Why this rater cannot be believed."""


@dataclass(frozen=True)
class Summary:
    """What all rankings show together."""

    rankings: int
    ties: int
    shared_items: int
    """Pairs of answers that several people judged."""
    alpha: float | None
    """Krippendorff's alpha of these judgements: better, tie, worse are ordinal."""
    alpha_nominal: float | None
    retest: tuple[int, int]
    raters: list[Rater]
    """Those with most rankings first."""


def summarise(
    rankings: Sequence[Ranking], flood_share: float = FLOOD_SHARE, believed: Collection[str] = ()
) -> Summary:
    """The record of all raters and of each, with the faults that it shows.

    `flood_share`: share of the rankings above which one of several raters floods. `believed`: raters whose
    votes are the measure of the others; default: what most agree on.
    """
    found = judgements(rankings)
    items = by_item(found)
    weights = rater_weights(items, believed)
    agreed, again = with_others(items, weights), retest(found)
    units = [list(votes.values()) for votes in items.values()]
    raters = []
    for name in dict.fromkeys(ranking.rater for ranking in rankings):
        own = [ranking for ranking in rankings if ranking.rater == name]
        same = agreed.get(name, [])
        blind = [ranking.ranks for ranking in own if ranking.blind and len(ranking.ranks) == 2]
        decided = [first < second for first, second in blind if first != second]
        raters.append(
            Rater(
                name=name,
                rankings=len(own),
                ties=sum(_tied(ranking) for ranking in own),
                agreement=(sum(same), len(same)),
                retest=again.get(name, (0, 0)),
                first_shown=(sum(decided), len(decided)),
                seconds=_pace(own),
                weight=weights.get(name, 1.0),
            )
        )
    judged = [
        replace(rater, faults=_faults(rater, [each for each in raters if each is not rater], flood_share))
        for rater in raters
    ]
    totals = np.array([rater.retest for rater in raters]).reshape(-1, 2).sum(axis=0)
    return Summary(
        rankings=len(rankings),
        ties=sum(_tied(ranking) for ranking in rankings),
        shared_items=sum(len(unit) > 1 for unit in units),
        alpha=krippendorff_alpha(units, "ordinal"),
        alpha_nominal=krippendorff_alpha(units, "nominal"),
        retest=(int(totals[0]), int(totals[1])),
        raters=sorted(judged, key=lambda rater: (-rater.rankings, rater.name)),
    )


def _faults(rater: Rater, others: Sequence[Rater], flood_share: float) -> list[str]:
    faults = []
    hits, count = rater.agreement
    theirs = _share([each.agreement for each in others if each.weight])
    if count >= FEW and theirs is not None and tail(hits, count, theirs) < UNLIKELY:
        way = "disagrees with" if tail(hits, count, 0.5) < UNLIKELY else "agrees by chance with"
        faults.append(f"{way} the others: {hits} of {count} shared pairs alike, theirs {theirs:.0%}")
    hits, count = rater.retest
    theirs = _share([each.retest for each in others])
    if count >= FEW and theirs is not None and tail(hits, count, theirs) < UNLIKELY:
        faults.append(f"contradicts oneself: {hits} of {count} repeated pairs alike, others {theirs:.0%}")
    hits, count = rater.first_shown
    place = wilson(hits, count)
    if place.low > ONE_PLACE or place.high < 1 - ONE_PLACE:
        faults.append(f"prefers a place: the first answer shown in {hits} of {count}, at random places")
    if rater.seconds is not None and rater.seconds < TOO_FAST_SECONDS:
        faults.append(f"floods: a ranking every {rater.seconds:.1f} s")
    share = rater.rankings / (rater.rankings + sum(each.rankings for each in others))
    if others and rater.rankings >= FEW and share > flood_share:
        faults.append(f"floods: {share:.0%} of all rankings are this rater's")
    return faults


def tail(hits: int, count: int, share: float) -> float:
    """Probability of at most so many hits, each with probability `share` between 0 and 1 (binomial)."""
    whole = math.lgamma(count + 1)
    chances = [
        math.exp(
            whole
            - math.lgamma(k + 1)
            - math.lgamma(count - k + 1)
            + k * math.log(share)
            + (count - k) * math.log1p(-share)
        )
        for k in range(hits + 1)
    ]
    return min(1.0, math.fsum(chances))


def _share(counts: Sequence[tuple[int, int]]) -> float | None:
    """The common share of several counts, with a hit and a miss added; None if there are too few."""
    hits, total = sum(hit for hit, _ in counts), sum(count for _, count in counts)
    return (hits + 1) / (total + 2) if total >= FEW else None


def _tied(ranking: Ranking) -> bool:
    return len(set(ranking.ranks)) == 1


def _pace(own: Sequence[Ranking]) -> float | None:
    times = [ranking.time for ranking in own if ranking.time not in ("", UNKNOWN_TIME)]
    moments = sorted(datetime.fromisoformat(time).timestamp() for time in times)
    return float(np.median(np.diff(moments))) if len(moments) >= FEW else None
