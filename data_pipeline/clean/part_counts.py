"""Numbers of the documents of a corpus, which the workers return with each part and the driver adds up."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem
from headwater.data_pipeline.corpus import KEPT, REJECTED
from headwater.data_pipeline.documents import host_of
from headwater.data_pipeline.sources.opt_outs import marks_in
from headwater.data_pipeline.tables import read_columns

SHOWN = 50
"""Domains and licences that the card lists; of the others it has the number."""
COUNTED = ("url", "fetched_at", "language", "licence", "metadata")
"""Columns of kept documents that are counted; `metadata` may be missing."""


class PartCounts:
    """Kept documents by language, licence, year and domain; dropped ones by language and step."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        """`rows`: what `row` returned for the parts, from the start or read from JSON."""
        self.documents = self.bytes = self.files = 0
        self.languages, self.licences, self.years, self.domains, self.opt_outs = (
            collections.Counter[str]() for _ in range(5)
        )
        self.dates: list[str] = []
        """First and last date of a fetch; empty if none is known."""
        self.dropped: dict[str, collections.Counter[str]] = {}
        for row in rows:
            self._add(row)

    def row(self) -> dict[str, Any]:
        return dict(vars(self))

    def of_kept(self) -> dict[str, Any]:
        """The kept documents, as the data card has them. Without opt-outs it says nothing of them."""
        stated = {"opt_outs": dict(most(self.opt_outs))} if self.opt_outs else {}
        return stated | {
            "documents": self.documents,
            "bytes": self.bytes,
            "files": self.files,
            "fetched": {"first": self.dates[0], "last": self.dates[-1]} if self.dates else {},
            "years": dict(sorted(self.years.items())),
            "languages": dict(most(self.languages)),
            "licences": dict(most(self.licences)[:SHOWN]),
            "domains": dict(most(self.domains)[:SHOWN]),
            "different_domains": len(self.domains),
            "different_licences": len(self.licences),
        }

    def by_language(self) -> dict[str, dict[str, Any]]:
        """language → `documents`, `kept`, and `dropped` by step; the most frequent languages first. Documents
        without a language, which the steps before `language` dropped, do not count."""
        rows: dict[str, dict[str, Any]] = {}
        for language in filter(None, {*self.languages, *self.dropped}):
            dropped = self.dropped.get(language, collections.Counter())
            kept = self.languages[language]
            rows[language] = {
                "documents": kept + dropped.total(),
                "kept": kept,
                "dropped": dict(sorted(dropped.items())),
            }
        return dict(sorted(rows.items(), key=lambda item: (-item[1]["documents"], item[0])))

    def _add(self, row: Mapping[str, Any]) -> None:
        self.documents += row["documents"]
        self.bytes += row["bytes"]
        self.files += row["files"]
        for name in ("languages", "licences", "years", "domains", "opt_outs"):
            getattr(self, name).update(row[name])
        dates = [*self.dates, *row["dates"]]
        self.dates = [min(dates), max(dates)] if dates else []
        for language, steps in row["dropped"].items():
            self.dropped.setdefault(language, collections.Counter()).update(steps)


def count_part(output: Artifact, unit: str, kept: pa.Table, rejected: pa.Table) -> dict[str, Any]:
    """The row of one part, whose file of kept documents is written. `kept` needs the columns COUNTED,
    `rejected` needs `language` and `step`."""
    fs, path = filesystem(output.path(f"{KEPT}/{unit}.parquet"))
    counts = PartCounts()
    counts.documents, counts.files, counts.bytes = kept.num_rows, 1, fs.get_file_info(path).size
    counts.languages.update(kept["language"].to_pylist())
    counts.licences.update(kept["licence"].to_pylist())
    known = [date for date in kept["fetched_at"].to_pylist() if date]
    counts.years.update(date[:4] for date in known)
    counts.dates = [min(known), max(known)] if known else []
    counts.domains.update(map(domain_of, kept["url"].to_pylist()))
    if "metadata" in kept.column_names:
        for metadata in filter(None, kept["metadata"].to_pylist()):
            counts.opt_outs.update(marks_in(metadata))
    for language, step in zip(rejected["language"].to_pylist(), rejected["step"].to_pylist(), strict=True):
        counts.dropped.setdefault(language, collections.Counter())[step] += 1
    return counts.row()


class CountWorker:
    """Counts a part that is written already."""

    def __init__(self, output: Artifact) -> None:
        self._output = output

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        name = f"{unit['unit']}.parquet"
        kept = read_columns(self._output, f"{KEPT}/{name}", COUNTED)
        rejected = read_columns(self._output, f"{REJECTED}/{name}", ("language", "step"))
        return {"counts": count_part(self._output, unit["unit"], kept, rejected)}


def domain_of(url: str) -> str:
    """The host of a URL without `www.`; empty without one."""
    return host_of(url).removeprefix("www.")


def most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The largest counts first, equal ones by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
