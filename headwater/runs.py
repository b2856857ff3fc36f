"""Attempts of runs in a store, and the differences between two of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.run_record import Record, attempt_folder, read_record
from headwater.cluster.storage.artifact import Manifest
from headwater.cluster.storage.store import Store
from headwater.status import COLOURS, ago

RECIPE = "recipe.yaml"


def attempts_table(location: str, records: Iterable[Record]) -> Table:
    """One row per attempt."""
    table = Table(title=f"runs in {location}", title_justify="left")
    for column in ("run", "state", "started", "duration", "stages", "commit", "driver", "error"):
        table.add_column(column)
    now = time.time()
    for record in records:
        state = record.shown_state(now)
        table.add_row(
            _name(record),
            f"[{COLOURS.get(state, 'white')}]{state}[/]",
            ago(now - record.started),
            f"{record.heartbeat - record.started:,.0f} s",
            f"{len(record.stages)} done" + (f", in {record.stage}" if state != "finished" else ""),
            f"{record.commit[:8]}{'-dirty' if record.commit.endswith('-dirty') else ''}",
            f"{record.job or record.host} pid {record.pid}",
            escape(record.error),
        )
    return table


@dataclass(frozen=True)
class Difference:
    """What two attempts do not share. `kind`: source, setting, stage or metric."""

    kind: str
    name: str
    a: Any
    b: Any


def difference(store: Store, a: str, b: str) -> list[Difference]:
    """Commit, settings, artifacts of stages and their numeric metrics that differ between two attempts.

    Each is named RUN (its newest attempt) or RUN/ATTEMPT. Raises HeadwaterError if one is not there.
    """
    first, second = _Attempt.of(store, a), _Attempt.of(store, b)
    return [
        *_different("source", {"commit": first.record.commit}, {"commit": second.record.commit}),
        *_different("setting", first.settings, second.settings),
        *_different("stage", first.stages, second.stages),
        *_different("metric", first.metrics(store), second.metrics(store)),
    ]


def difference_table(a: str, b: str, differences: Iterable[Difference]) -> Table:
    table = Table("", "name", a, b, "change")
    for one in differences:
        table.add_row(one.kind, one.name, _text(one.a), _text(one.b), _change(one))
    return table


@dataclass(frozen=True)
class _Attempt:
    record: Record
    settings: dict[str, Any]

    @classmethod
    def of(cls, store: Store, name: str) -> _Attempt:
        run, slash, number = name.partition("/")
        if slash and not number.isdigit():
            raise HeadwaterError("not of the form RUN or RUN/ATTEMPT", where=name, fix="such as mine/2")
        wanted = int(number) if slash else None
        folder, record = attempt_folder(store, run, wanted), read_record(store, run, wanted)
        if folder is None or record is None:
            raise HeadwaterError(
                f"no such run: {name}", where=store.location, fix="list all: headwater runs list"
            )
        raw = yaml.safe_load(folder.read_bytes(RECIPE)) if folder.exists(RECIPE) else {}
        return cls(record, dict(_flat(raw)))

    @property
    def stages(self) -> dict[str, str]:
        return {stage.stage: stage.key for stage in self.record.stages}

    def metrics(self, store: Store) -> dict[str, Any]:
        found = {}
        for stage, key in self.stages.items():
            manifest: Manifest | None = store.artifact(stage, key).manifest()
            for name, value in _flat(manifest.metrics if manifest else {}, stage):
                if isinstance(value, int | float) and not isinstance(value, bool):
                    found[name] = value
        return found


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`a.b` → value for nested mappings and for lists of mappings; other lists are values."""
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        value = {str(number): item for number, item in enumerate(value)}
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, item in value.items():
        yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))


def _different(kind: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys([*a, *b]):
        if a.get(name) != b.get(name):
            yield Difference(kind, name, a.get(name), b.get(name))


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _change(one: Difference) -> str:
    """Relative change of a metric, in percent."""
    if one.kind != "metric" or not one.a or one.b is None:
        return ""
    return f"{(one.b - one.a) / abs(one.a):+.1%}"


def _name(record: Record) -> str:
    return f"{record.recipe}/{record.attempt}" if record.attempt else record.recipe
