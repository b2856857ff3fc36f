"""Status tables: a store's runs with stage, progress and last checkpoint; a cluster's nodes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from headwater.cluster.runtime.run_record import Record, read_record
from headwater.cluster.storage.artifact import SCRATCH, Artifact
from headwater.cluster.storage.filesystem import list_files
from headwater.cluster.storage.store import Store
from headwater.show import bytes_text

COLOURS = {"running": "green", "finished": "cyan", "failed": "red", "lost": "red", "stopped": "yellow"}


def runs_table(store: Store, run: str | None = None) -> Table:
    """One row per run, newest first."""
    table = Table(title=f"runs in {store.location}", title_justify="left")
    for column in ("run", "state", "stage", "progress", "last checkpoint", "driver", "heartbeat"):
        table.add_column(column, overflow="fold")
    now = time.time()
    records = [read_record(store, name) for name in store.runs() if run in (None, name)]
    for record in sorted((r for r in records if r), key=lambda r: r.started, reverse=True):
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
    if not record.artifact:
        return ""
    scratch = Artifact(record.artifact).path(SCRATCH)
    checkpoints: dict[str, float] = {}
    units = 0
    for info in list_files(scratch):
        folders = [part for part in info.path.split("/") if part.startswith("checkpoint_")]
        if folders and info.path.endswith("/whole.json"):
            modified = (info.mtime_ns or 0) / 1e9
            checkpoints[folders[0]] = max(checkpoints.get(folders[0], 0.0), modified)
        elif info.path.endswith(".json") and "/train/" not in info.path:
            units += 1
    if checkpoints:
        newest = max(checkpoints, key=lambda name: checkpoints[name])
        return ago(now - checkpoints[newest])
    return f"{units} units done" if units else "none yet"


def cluster_table(nodes: Iterable[Mapping[str, Any]], actors: Iterable[Mapping[str, Any]]) -> Table:
    """One row per node of the dashboard's `/nodes?view=summary`, with the actors running on it."""
    table = Table(title="nodes", title_justify="left")
    for column in ("node", "state", "CPU", "memory", "GPU", "disk", "actors"):
        table.add_column(column, overflow="fold")
    living: dict[str, dict[str, int]] = {}
    for actor in actors:
        counted = living.setdefault(str(actor.get("node_id")), {})
        name = str(actor.get("class_name")).rsplit(".", 1)[-1]
        counted[name] = counted.get(name, 0) + 1
    for node in nodes:
        raylet = node.get("raylet", {})
        used, total = (node.get("mem") or [0, 0, 0, 0])[3], (node.get("mem") or [0])[0]
        disk = (node.get("disk") or {}).get("/", {})
        gpus = node.get("gpus") or []
        table.add_row(
            f"{node.get('hostname', '')} {node.get('ip', '')}{' (head)' if raylet.get('isHeadNode') else ''}",
            str(raylet.get("state", "")).lower(),
            f"{node.get('cpu', 0):.0f} % of {(node.get('cpus') or [0])[0]}",
            f"{bytes_text(used)} of {bytes_text(total)}",
            ", ".join(f"{gpu.get('utilizationGpu') or 0} %" for gpu in gpus) or "none",
            f"{bytes_text(disk.get('free', 0))} free",
            ", ".join(
                f"{count} {name}" for name, count in sorted(living.get(str(raylet.get("nodeId")), {}).items())
            ),
        )
    return table


def _stage(record: Record, state: str) -> str:
    done = len(record.stages)
    expected = max(record.expected, done + (state != "finished"))
    if state == "finished":
        return f"{done} of {expected} done"
    return f"{record.stage or 'starting'} ({done + 1} of {expected})"


def ago(seconds: float) -> str:
    """An age in seconds as text: `40 s ago`, `3 min ago`, `2 h ago`, `5 days ago`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
