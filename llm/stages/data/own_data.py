"""What stages that read own files share: the skipped records, the report of a read, the order by weight."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.parts import PROBLEMS_SHOWN, UNREAD, UNREAD_ROWS
from headwater.data_pipeline.sources.items import UNREAD_SCHEMA, Unread
from headwater.data_pipeline.tables import write_table
from headwater.llm.examples.encoded import EncodedExamples
from headwater.llm.examples.own_data.reading import OwnFile
from headwater.llm.examples.own_data.source import DataSource, list_files
from headwater.llm.rows.mixture import MixtureOrder
from headwater.llm.rows.order import BatchOrder, ShuffledOrder

SOURCE_DIGITS = 3
PEOPLE = "people"
"""Kind of the pairs that are rankings: the name of their example file."""
FILES_CHECKED = 100
"""Files of a setting whose first records are looked at before a run."""


class Skipped:
    """The records of a unit that are not used: counts by reason, and a row each for `unread/`."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []
        self.reasons: collections.Counter[str] = collections.Counter()

    def add(self, problem: Unread) -> None:
        self.reasons[problem.reason] += 1
        if len(self.rows) < UNREAD_ROWS:
            detail = problem.detail.encode("utf-8", "replace").decode()[:500]
            place = {"file": problem.file, "position": problem.position}
            self.rows.append(place | {"reason": problem.reason, "detail": detail})

    def close(self, output: Artifact, unit: str) -> dict[str, Any]:
        """Write the rows to `unread/<unit>.parquet`, if there are any. Returns counts and the first rows."""
        if self.rows:
            write_table(output, f"{UNREAD}/{unit}.parquet", pa.Table.from_pylist(self.rows, UNREAD_SCHEMA))
        return {"skipped": dict(self.reasons), "problems": self.rows[:PROBLEMS_SHOWN]}


def report(session: Session, label: str, units: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Say what was read from own files, one line per format, and what was skipped. Returns the metrics.

    `units`: one per file, with `file`, `format`, `used`, `skipped` and `problems`.
    """
    if not units:
        return {}
    reasons: collections.Counter[str] = collections.Counter()
    formats: dict[str, list[Mapping[str, Any]]] = {}
    for unit in units:
        reasons.update(unit["skipped"])
        formats.setdefault(unit["format"], []).append(unit)
    for name, files in formats.items():
        rest = len(files) - 1
        more = f" and {rest} more file{'s'[: rest != 1]}" if rest else ""
        session.say(f"{label}: format {name}, {sum(f['used'] for f in files):,} of {files[0]['file']}{more}")
    problems = list(itertools.chain.from_iterable(unit["problems"] for unit in units))[:PROBLEMS_SHOWN]
    if reasons:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))
        session.say(f"{label}: skipped {counts} (all in `{UNREAD}/` of the artifact)")
        for problem in problems:
            session.say("  {file}, {position}: {reason}, {detail}".format(**problem))
    return {"skipped": dict(sorted(reasons.items())), "problems": problems}


def check_files(
    sources: Sequence[DataSource] | None, setting: str, read: Callable[[OwnFile], Iterator[Any]]
) -> None:
    """Look at the first records of the files on a disk, before anything runs. `read`: a method of `OwnFile`.

    Raises HeadwaterError for files that do not exist, and as `reading.conversations` for what the first
    records show. Remote files are reported when they are read.
    """
    local = [file for file in list_files(sources or (), setting) if "://" not in file.path]
    for file in local[:FILES_CHECKED]:
        next(read(OwnFile(file.source, file.path)), None)


def file_prefix(number: int) -> str:
    """How the names of a source's example files begin; `weight_of` reads them."""
    return f"own-{number:0{SOURCE_DIGITS}}"


def weight_of(name: str, data: Sequence[DataSource] | None, rankings: float = 1.0) -> float:
    """The weight of an example file: its source's, that of rankings, or 1 for what comes from elsewhere."""
    if name == f"{PEOPLE}.arrow":
        return rankings
    kind, _, rest = name.partition("-")
    number = rest[:SOURCE_DIGITS]
    own = data and kind == "own" and number.isdigit() and int(number) < len(data)
    return data[int(number)].weight if data and own else 1.0


def example_order(
    examples: EncodedExamples,
    data: Sequence[DataSource] | None,
    batch: int,
    seed: int,
    rankings_weight: float = 1.0,
) -> BatchOrder:
    """Each epoch shuffles all examples; with weights, those of a source (or rankings) are seen that much more
    often."""
    groups: list[tuple[float, range]] = []
    for name, rows in examples.files():
        weight = weight_of(name, data, rankings_weight)
        if groups and groups[-1][0] == weight:
            groups[-1] = (weight, range(groups[-1][1].start, rows.stop))
        elif rows:
            groups.append((weight, rows))
    if len({weight for weight, _ in groups}) < 2:
        return ShuffledOrder(len(examples), batch, seed)
    ranges = tuple(rows for _, rows in groups)
    shares = tuple(weight * len(rows) for weight, rows in groups)
    return MixtureOrder(ranges, shares, batch, seed)
