"""Which document of a group of duplicates stays: a rule that does not depend on the order of the input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Candidates:
    """What the rule looks at, one entry a document."""

    ids: np.ndarray
    """str [N]"""
    lengths: np.ndarray
    """int64 [N], characters of the text"""
    places: np.ndarray
    """str [N], where the document was read: decides only between documents with the same id"""

    def take(self, rows: np.ndarray) -> Candidates:
        return Candidates(self.ids[rows], self.lengths[rows], self.places[rows])


def keep_best(candidates: Candidates, groups: np.ndarray) -> np.ndarray:
    """For each document the row of its group's best, or -1 for the best themselves.

    The best of a group is the longest; of equally long ones the one with the smallest id.
    `groups` is int [N]: documents with the same number are duplicates of each other.
    """
    order = np.lexsort((candidates.places, candidates.ids, -candidates.lengths, groups))
    ordered = groups[order]
    first = np.ones(len(order), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    best_of_group = order[first][np.cumsum(first) - 1]
    kept_instead = np.full(len(groups), -1, np.int64)
    kept_instead[order] = np.where(first, -1, best_of_group)
    return kept_instead
