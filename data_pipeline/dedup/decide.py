"""Which of all surviving documents are duplicates, from their signatures alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from data_pipeline.dedup.exact import exact_duplicates
from data_pipeline.dedup.minhash import near_duplicates
from data_pipeline.dedup.survivors import Candidates
from data_pipeline.funnel import StepCount

if TYPE_CHECKING:
    from data_pipeline.judge import CleanConfig

DECISION_SCHEMA = pa.schema(
    [
        ("step", pa.string()),
        ("reason", pa.string()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("duplicate_of", pa.string()),
    ]
)


def decide(signatures: pa.Table, config: CleanConfig) -> tuple[pa.Table, list[StepCount]]:
    """One decision for each row (a null `step` keeps it), and the counts of the steps that are on.

    The near duplicates are looked for among what the exact step leaves. Their score is the share
    of MinHash buckets that a document has in common with the one kept in its place; a document
    that is connected to it only through others may have none.
    """
    candidates = Candidates(
        np.array(signatures["id"].to_pylist(), dtype=object).astype(str),
        signatures["length"].to_numpy(),
        np.array(signatures["source"].to_pylist(), dtype=object).astype(str),
    )
    total = signatures.num_rows
    kept_instead = np.full(total, -1, np.int64)
    step = np.full(total, None, dtype=object)
    score = np.full(total, np.nan)
    counts = []
    if config.exact_dedup.enabled:
        found = exact_duplicates(candidates, _matrix(signatures["digest"], total))
        dropped = found >= 0
        kept_instead[dropped], step[dropped], score[dropped] = found[dropped], "exact_dedup", 1.0
        counts.append(_count("exact_dedup", "same_text", candidates, np.ones(total, bool), dropped))
    if config.minhash_dedup.enabled:
        keys = _matrix(signatures["keys"], total)
        rows = np.flatnonzero(kept_instead < 0)
        found = near_duplicates(candidates.take(rows), keys[rows])
        dropped = np.zeros(total, bool)
        dropped[rows[found >= 0]] = True
        kept_instead[dropped], step[dropped] = rows[found[found >= 0]], "minhash_dedup"
        score[dropped] = (keys[dropped] == keys[kept_instead[dropped]]).mean(axis=1)
        before = np.zeros(total, bool)
        before[rows] = True
        counts.append(_count("minhash_dedup", "near_duplicate", candidates, before, dropped))
    names = candidates.ids
    rows_out = [
        {
            "step": step[row],
            "reason": {"exact_dedup": "same_text", "minhash_dedup": "near_duplicate"}.get(step[row]),
            "score": None if step[row] is None else float(score[row]),
            "threshold": 1 / config.minhash_dedup.buckets if step[row] == "minhash_dedup" else None,
            "duplicate_of": None if step[row] is None else str(names[_last(kept_instead, row)]),
        }
        for row in range(total)
    ]
    return pa.Table.from_pylist(rows_out, DECISION_SCHEMA), counts


def _last(kept_instead: np.ndarray, row: int) -> int:
    """The document that stays in the end: an exact copy's original may itself be a near duplicate."""
    while kept_instead[row] >= 0:
        row = int(kept_instead[row])
    return row


def _matrix(column: pa.ChunkedArray, rows: int) -> np.ndarray:
    """A column of equally long lists of uint64 as a matrix."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.astype(np.uint64).reshape(rows, -1) if rows else np.zeros((0, 1), np.uint64)


def _count(
    step: str, reason: str, candidates: Candidates, before: np.ndarray, dropped: np.ndarray
) -> StepCount:
    count = StepCount(step, int(before.sum()), int((before & ~dropped).sum()))
    count.characters_in = int(candidates.lengths[before].sum())
    count.characters_out = int(candidates.lengths[before & ~dropped].sum())
    if dropped.any():
        count.reasons[reason] = int(dropped.sum())
    return count
