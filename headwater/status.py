"""Views of a store's runs with stage, progress and last checkpoint, and of a cluster's nodes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from headwater.cluster.runtime.attempts import last_saved, stages_expected
from headwater.cluster.runtime.run_record import Record, read_record
from headwater.cluster.storage.store import Store
from headwater.show import bytes_text

COLOURS = {"running": "green", "finished": "cyan", "failed": "red", "lost": "red", "stopped": "yellow"}


def newest_records(store: Store, run: str | None = None) -> list[Record]:
    """The record of each run's newest attempt (or of this run's), the latest started first."""
    records = [read_record(store, name) for name in store.runs(run or "")]
    return sorted((record for record in records if record), key=lambda record: record.started, reverse=True)


def runs_table(store: Store, records: Iterable[Record]) -> Table:
    """One row per run."""
    table = Table(title=f"runs in {store.location}", title_justify="left")
    for column in ("run", "state", "stage", "progress", "last checkpoint", "driver", "heartbeat"):
        table.add_column(column)
    now = time.time()
    for record in records:
        state = record.shown_state(now)
        table.add_row(
            record.recipe,
            f"[{COLOURS.get(state, 'white')}]{state}[/]",
            _stage(record, state),
            record.error if state == "failed" else progress_text(record) if state == "running" else "",
            last_checkpoint(record, now) if state != "finished" else "",
            f"{record.job or record.host} pid {record.pid}",
            ago(now - record.heartbeat),
        )
    return table


def progress_text(record: Record) -> str:
    """Progress as text: `pretrain 40/75 steps, 0.4/s, 88 s left  loss 5.7`."""
    shown = record.progress
    if shown is None:
        return "starting"
    rate = f", {shown.rate:,.1f}/s" if shown.rate else ""
    left = f", {max(0, shown.total - shown.done) / shown.rate:,.0f} s left" if shown.rate else ""
    note = f"  {shown.note}" if shown.note else ""
    return f"{shown.label} {shown.done:,}/{shown.total:,} {shown.unit}{rate}{left}{note}"


def last_checkpoint(record: Record, now: float) -> str:
    """Age of the running stage's newest training checkpoint, or its number of finished units."""
    written, units = last_saved(record)
    if written is not None:
        return ago(now - written)
    return "" if not record.artifact else f"{units} units done" if units else "none yet"


def node_rows(
    nodes: Iterable[Mapping[str, Any]], actors: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One entry per node of the dashboard's `/nodes?view=summary`, with the number of its actors by class."""
    living: dict[str, dict[str, int]] = {}
    for actor in actors:
        counted = living.setdefault(str(actor.get("node_id")), {})
        name = str(actor.get("class_name")).rsplit(".", 1)[-1]
        counted[name] = counted.get(name, 0) + 1
    rows = []
    for node in nodes:
        raylet, memory = node.get("raylet", {}), node.get("mem") or [0, 0, 0, 0]
        rows.append(
            {
                "host": node.get("hostname", ""),
                "ip": node.get("ip", ""),
                "head": bool(raylet.get("isHeadNode")),
                "state": str(raylet.get("state", "")).lower(),
                "cpus": (node.get("cpus") or [0])[0],
                "cpu_percent": node.get("cpu", 0),
                "memory_bytes": memory[0],
                "memory_used_bytes": memory[3],
                "gpu_percents": [gpu.get("utilizationGpu") or 0 for gpu in node.get("gpus") or []],
                "disk_free_bytes": (node.get("disk") or {}).get("/", {}).get("free", 0),
                "actors": dict(sorted(living.get(str(raylet.get("nodeId")), {}).items())),
            }
        )
    return rows


def cluster_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One row per entry of `node_rows`."""
    table = Table(title="nodes", title_justify="left")
    for column in ("node", "state", "CPU", "memory", "GPU", "disk", "actors"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            f"{row['host']} {row['ip']}{' (head)' if row['head'] else ''}",
            row["state"],
            f"{row['cpu_percent']:.0f} % of {row['cpus']}",
            f"{bytes_text(row['memory_used_bytes'])} of {bytes_text(row['memory_bytes'])}",
            ", ".join(f"{percent} %" for percent in row["gpu_percents"]) or "none",
            f"{bytes_text(row['disk_free_bytes'])} free",
            ", ".join(f"{count} {name}" for name, count in row["actors"].items()),
        )
    return table


def _stage(record: Record, state: str) -> str:
    expected, done = stages_expected(record), len(record.stages)
    if state == "finished":
        return f"{done} of {expected} done"
    return f"{record.stage or 'starting'} ({done + 1} of {expected})"


def ago(seconds: float) -> str:
    """An age in seconds as text: `40 s ago`, `3 min ago`, `2 h ago`, `5 days ago`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
