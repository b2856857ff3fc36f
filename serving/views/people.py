"""How people's rankings stand: counts and agreement."""

from __future__ import annotations

from typing import Any

from headwater.cluster.storage.store import Store
from headwater.llm.examples.rankings import read


def standing(store: Store, rater: str) -> dict[str, Any]:
    """How many rankings there are, and of this rater; agreement, None where no two people judged the same."""
    from headwater.llm.rankings.raters import summarise

    found = summarise([kept.ranking for kept in read(store)])
    own = next((each for each in found.raters if each.name == rater), None)
    return {
        "rankings": found.rankings,
        "raters": len(found.raters),
        "own": own.rankings if own else 0,
        "own_agreement": list(own.agreement) if own else [0, 0],
        "shared_items": found.shared_items,
        "alpha": found.alpha,
    }
