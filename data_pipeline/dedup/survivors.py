"""Selects the document to keep from a group of duplicates, independently of input order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Name = tuple[str, str]
"""Id and source position of a document. The position only breaks ties between equal ids."""


def keep_best(
    groups: np.ndarray, lengths: np.ndarray, names: Callable[[np.ndarray], Sequence[Name]]
) -> np.ndarray:
    """int64 [n]: for each document the row of its group's best document, or -1 if it is the best.

    The best document of a group is the longest one; ties go to the smallest name. `groups` is int [n]
    (equal numbers are duplicates), `lengths` int [n] in characters. `names` returns the names of rows; it
    is called only for rows of equal length.
    """
    kept_instead = np.full(len(groups), -1, np.int64)
    shared = np.bincount(groups)[groups] > 1 if len(groups) else np.zeros(0, bool)
    rows = np.flatnonzero(shared)
    rows = rows[np.lexsort((-lengths[rows], groups[rows]))]
    starts = np.flatnonzero(np.r_[True, groups[rows][1:] != groups[rows][:-1]]) if len(rows) else rows
    best = rows[starts].copy()
    sizes = np.diff(np.r_[starts, len(rows)])
    of_group = np.repeat(np.arange(len(starts)), sizes)
    tied = lengths[rows] == lengths[best][of_group]
    undecided = tied & (np.bincount(of_group[tied], minlength=len(starts))[of_group] > 1)
    asked = rows[undecided]
    smallest: dict[int, tuple[Name, int]] = {}
    for group, row, name in zip(of_group[undecided].tolist(), asked.tolist(), names(asked), strict=True):
        if group not in smallest or name < smallest[group][0]:
            smallest[group] = name, row
    for group, (_, row) in smallest.items():
        best[group] = row
    kept_instead[rows] = best[of_group]
    kept_instead[best] = -1
    return kept_instead
