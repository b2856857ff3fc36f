"""Decides from the scores which documents are kept: first the steps' rules, then the duplicates.

Reads the score tables part by part. Memory holds about 40 bytes per document, plus the ids and keys of
documents with duplicates. The result does not depend on the order of parts and documents.
"""

from __future__ import annotations

import collections
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from headwater.data_pipeline.clean.funnel import StepCount
from headwater.data_pipeline.clean.scores import matrix, score_names
from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.dedup.groups import Groups, Spill
from headwater.data_pipeline.dedup.survivors import Name, keep_best
from headwater.data_pipeline.filters.pii import KINDS

DECISION_SCHEMA = pa.schema(
    [
        ("step", pa.string()),
        ("reason", pa.string()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("duplicate_of", pa.string()),
    ]
)
REASONS = {"exact_dedup": "same_text", "minhash_dedup": "near_duplicate"}

Read = Callable[[str, Sequence[str] | None], pa.Table]
"""Reads the score table of a part, or some of its columns."""


@dataclass
class Verdicts:
    """Verdicts of the per-document steps on the rows of one part; `step` is None for kept documents."""

    step: np.ndarray
    reason: np.ndarray
    score: np.ndarray
    threshold: np.ndarray
    characters: np.ndarray
    """Characters of each text after these steps."""


def own_verdicts(table: pa.Table, config: CleanConfig, counts: dict[str, StepCount]) -> Verdicts:
    """Apply the rules of every step in order, and add each step's counts to `counts`."""
    rows = table.num_rows
    step, reason = np.full(rows, None, object), np.full(rows, None, object)
    score, threshold = np.full(rows, np.nan), np.full(rows, np.nan)
    size = _integers(table["characters.read"])
    stopped_by = table["stopped_by"].to_numpy(zero_copy_only=False)
    alive = np.ones(rows, bool)

    def drop(hit: np.ndarray, name: str, reasons: object, scores: object, limits: object) -> None:
        step[hit], reason[hit], score[hit], threshold[hit] = name, reasons, scores, limits
        alive[hit] = False

    groups = _by_language(table, config)
    for name in config.own_steps():
        count, before = counts[name], alive.copy()
        count.documents_in += int(before.sum())
        count.characters_in += int(size[before].sum())
        stopped = alive & (stopped_by == name)
        if stopped.any():
            columns = (
                table[c].to_numpy(zero_copy_only=False)[stopped] for c in ("reason", "score", "threshold")
            )
            drop(stopped, name, *columns)
        scores = {
            score_name: table[f"{name}.{score_name}"].to_numpy(zero_copy_only=False)
            for score_name in score_names(config, name)
        }
        for settings, among in groups:
            for rule in settings.rules(name) if name in settings.own_steps() else ():
                hit = alive & among & np.asarray(rule.hits(scores), bool)
                if hit.any():
                    shown, limit = rule.shown or ("", np.nan)
                    drop(hit, name, rule.reason, scores[shown][hit] if shown else np.nan, limit)
        if f"characters.{name}" in table.column_names:
            rewritten = table[f"characters.{name}"].to_numpy(zero_copy_only=False)
            size = np.where(np.isnan(rewritten), size, rewritten).astype(np.int64)
        count.documents_out += int(alive.sum())
        count.characters_out += int(size[alive].sum())
        count.reasons.update(collections.Counter(reason[before & ~alive].tolist()))
    return Verdicts(step, reason, score, threshold, size)


def _by_language(table: pa.Table, config: CleanConfig) -> list[tuple[CleanConfig, np.ndarray]]:
    """The settings of each language asked for, and bool [rows]: which rows they hold for. The settings as
    they stand hold for all others."""
    others = np.ones(table.num_rows, bool)
    groups: list[tuple[CleanConfig, np.ndarray]] = []
    if config.language.enabled:
        found = table["language.language"].to_numpy(zero_copy_only=False)
        for code in config.language.languages:
            settings = config.of_language(code)
            if settings is not config and (rows := found == code).any():
                groups.append((settings, rows))
                others &= ~rows
    return [*groups, (config, others)]


class Decisions:
    """Decisions from the score tables of `units`. `counts` is the funnel; `of` returns a part's decisions."""

    def __init__(self, read: Read, units: Sequence[str], config: CleanConfig) -> None:
        self._read, self._units, self._config = read, units, config
        self._own = {step: StepCount(step) for step in config.own_steps()}
        rows = [read(unit, ["id"]).num_rows for unit in units]
        self._starts = dict(zip(units, np.concatenate([[0], np.cumsum(rows)]).tolist(), strict=False))
        self._kept = np.zeros(sum(rows), bool)
        self._lengths = np.zeros(sum(rows), np.int64)
        self._kept_instead = np.full(sum(rows), -1, np.int64)
        self._near = np.zeros(sum(rows), bool)
        self.counts: list[StepCount] = []
        self.replaced: collections.Counter[str] = collections.Counter()
        self._best: dict[int, tuple[str, np.ndarray | None]] = {}
        with tempfile.TemporaryDirectory(prefix="headwater-") as scratch:
            exact, near = self._judge(Path(scratch))
            if exact is not None:
                self._drop([exact], "exact_dedup")
            if near:
                self._drop(near, "minhash_dedup")
        self._sum_up()

    def of(self, unit: str) -> pa.Table:
        """Table of DECISION_SCHEMA with one row per document of the part. A null `step` means kept.

        A near duplicate's score is the fraction of MinHash buckets that it shares with the kept document. It
        can be 0 for a document connected only through others.
        """
        table = self._read(unit, None)
        verdicts = own_verdicts(table, self._config, {s: StepCount(s) for s in self._own})
        duplicate_of = np.full(table.num_rows, None, object)
        keys = matrix(table["keys"]) if self._near.any() else None
        start = self._starts[unit]
        for place in np.flatnonzero(self._kept_instead[start : start + table.num_rows] >= 0):
            row = start + int(place)
            step = "minhash_dedup" if self._near[row] else "exact_dedup"
            verdicts.step[place], verdicts.reason[place] = step, REASONS[step]
            verdicts.score[place] = 1.0
            duplicate_of[place] = self._best[self._last(row)][0]
            if step == "minhash_dedup" and keys is not None:
                best_keys = self._best[int(self._kept_instead[row])][1]
                verdicts.score[place] = (keys[place] == best_keys).mean()
                verdicts.threshold[place] = 1 / self._config.minhash_dedup.buckets
        columns = (verdicts.step, verdicts.reason, verdicts.score, verdicts.threshold, duplicate_of)
        arrays = [
            pa.array(column, field.type, from_pandas=True)
            for column, field in zip(columns, DECISION_SCHEMA, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=DECISION_SCHEMA)

    def _judge(self, scratch: Path) -> tuple[Spill | None, list[Spill]]:
        """Apply the steps' rules to every part, and spill the keys of kept documents to disk."""
        config, expected = self._config, len(self._kept)
        exact = Spill(scratch / "exact", expected) if config.exact_dedup.enabled else None
        buckets = config.minhash_dedup.buckets if config.minhash_dedup.enabled else 0
        near = [Spill(scratch / f"near-{bucket:03d}", expected) for bucket in range(buckets)]
        for unit in self._units:
            table = self._read(unit, None)
            verdicts = own_verdicts(table, config, self._own)
            start = self._starts[unit]
            kept = verdicts.step == None  # noqa: E711 (an array)
            self._kept[start : start + len(kept)] = kept
            self._lengths[start : start + len(kept)] = verdicts.characters
            rows = start + np.flatnonzero(kept)
            if exact is not None:
                digests = matrix(table["digest"])[kept]
                exact.add(digests[:, 0], rows, digests[:, 1])
            if near:
                keys = matrix(table["keys"])[kept]
                for bucket, spill in enumerate(near):
                    signed = keys[:, bucket] != 0
                    spill.add(keys[signed, bucket], rows[signed])
        return exact, near

    def _drop(self, spills: list[Spill], step: str) -> None:
        """Drop all but the best of each duplicate group among the documents still kept."""
        groups = Groups(len(self._kept))
        for spill in spills:
            groups.connect(spill, self._kept)
        found = keep_best(groups.numbers(), self._lengths, self._names)
        dropped = found >= 0
        count = StepCount(step, int(self._kept.sum()), int((self._kept & ~dropped).sum()))
        count.characters_in = int(self._lengths[self._kept].sum())
        count.characters_out = int(self._lengths[self._kept & ~dropped].sum())
        if dropped.any():
            count.reasons[REASONS[step]] = int(dropped.sum())
        self.counts.append(count)
        self._kept &= ~dropped
        self._kept_instead[dropped] = found[dropped]
        self._near[dropped] = step == "minhash_dedup"

    def _names(self, rows: np.ndarray) -> list[Name]:
        found: dict[int, Name] = {}
        for unit, start, here in self._by_unit(np.unique(rows)):
            table = self._read(unit, ["id", "source"]).take(here - start).to_pylist()
            found.update(zip(here.tolist(), ((row["id"], row["source"]) for row in table), strict=True))
        return [found[row] for row in rows.tolist()]

    def _by_unit(self, rows: np.ndarray) -> list[tuple[str, int, np.ndarray]]:
        """Split sorted global rows by unit: (unit, first row of the unit, its rows)."""
        starts = np.array([*self._starts.values(), len(self._kept)], np.int64)
        cuts = np.searchsorted(rows, starts)
        parts = zip(self._units, starts[:-1].tolist(), cuts[:-1], cuts[1:], strict=True)
        return [(unit, start, rows[low:high]) for unit, start, low, high in parts if high > low]

    def _sum_up(self) -> None:
        """Complete the funnel, and load ids and keys of the documents kept instead of duplicates."""
        best = np.unique(self._kept_instead[self._kept_instead >= 0])
        has_keys = self._near.any()
        for unit, start, here in self._by_unit(best):
            table = self._read(unit, ["id", "keys"] if has_keys else ["id"]).take(here - start)
            keys = matrix(table["keys"]) if has_keys else [None] * len(here)
            self._best.update(
                zip(here.tolist(), zip(table["id"].to_pylist(), keys, strict=True), strict=True)
            )
        self.counts = [*self._own.values(), *self.counts]
        if not self._config.pii.enabled:
            return
        count = StepCount("pii", int(self._kept.sum()), int(self._kept.sum()))
        count.characters_in = int(self._lengths[self._kept].sum())
        columns = {kind: f"pii.{kind}" for kind, *_ in KINDS}
        for unit in self._units:
            table = self._read(unit, ["characters.pii", *columns.values()])
            start = self._starts[unit]
            kept = self._kept[start : start + table.num_rows]
            count.characters_out += int(_integers(table["characters.pii"])[kept].sum())
            for kind, name in columns.items():
                if replaced := int(_integers(table[name])[kept].sum()):
                    self.replaced[kind] += replaced
        self.counts.append(count)

    def _last(self, row: int) -> int:
        """The document kept in the end: the original of an exact copy may itself be a near duplicate."""
        while self._kept_instead[row] >= 0:
            row = int(self._kept_instead[row])
        return row


def _integers(column: pa.ChunkedArray) -> np.ndarray:
    """Convert a column of numbers, with nulls as 0."""
    return np.asarray(column.fill_null(0).to_numpy(), np.int64)
