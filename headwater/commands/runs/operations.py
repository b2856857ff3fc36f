"""`headwater status` and `headwater doctor`: progress of runs, and checks before a run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from headwater.cluster.errors import HeadwaterError
from headwater.options import DASHBOARD_OPTION, JsonOption, StoreOption, console
from headwater.tables import print_json, show

if TYPE_CHECKING:
    from headwater.cluster.doctor.checks import Finding

MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]"}


def status(
    run: Annotated[str | None, typer.Argument(help="Name of a run; default: all.")] = None,
    store: StoreOption = "store",
    dashboard: Annotated[str | None, DASHBOARD_OPTION] = None,
    json: JsonOption = False,
) -> None:
    """Show each run's stage, progress, time left and last checkpoint; with --dashboard, nodes and actors."""
    from headwater import status as view
    from headwater.cluster.runtime.attempts import run_json
    from headwater.cluster.storage.store import Store

    opened = Store(store)
    opened.check_readable()
    records, nodes = view.newest_records(opened, run), None
    if run is not None and not records:
        raise HeadwaterError("no such run", where=f"{store}/runs/{run}", fix="list all: headwater status")
    if dashboard:
        from headwater.cluster.jobs.jobs import Jobs

        nodes = view.node_rows(*Jobs(dashboard).nodes_and_actors())
    if json:
        print_json({"store": opened.location, "runs": [*map(run_json, records)], "nodes": nodes})
        return
    show(console, view.runs_table(opened, records))
    if nodes is not None:
        show(console, view.cluster_table(nodes))


def doctor(
    store: Annotated[str | None, typer.Option(help="Check this store, too.")] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="HEAD:6379", help="Check a cluster's nodes, too, from one of them (or auto)."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check this machine, the store and the cluster; print a fix for every problem."""
    findings = list(_findings(store, address))
    failed = any(finding.state == "error" for finding in findings)
    if json:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        table = Table(show_header=False, box=None, pad_edge=False)
        for finding in findings:
            fix = f"\n[yellow]→ {escape(finding.fix)}[/]" if finding.fix else ""
            table.add_row(MARKS[finding.state], finding.what, f"{escape(finding.found)}{fix}")
        show(console, table)
    if failed:
        raise typer.Exit(1)


def _findings(store: str | None, address: str | None) -> Iterator[Finding]:
    from headwater.cluster.doctor import checks as look

    yield from look.machine()
    yield from look.ports({8000: "the endpoint (serve.port)"})
    if store:
        yield from look.store(store)
    if address:
        yield from _cluster(address)


def _cluster(address: str) -> Iterator[Finding]:
    from headwater.cluster.doctor import nodes
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.store import Store

    with tempfile.TemporaryDirectory(prefix="headwater-doctor-") as folder:
        session: Any = Session(Store(folder), console=console, address=address, logs_to=Path(folder))
        with session, Console(stderr=True).status("checking the nodes"):
            session.ray()
            yield from list(nodes.examine())
