"""`headwater status` and `headwater doctor`: progress of runs, and checks before a run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from headwater.cluster.errors import HeadwaterError
from headwater.options import StoreOption, console

if TYPE_CHECKING:
    from headwater.cluster.doctor.checks import Finding

MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]"}


def status(
    run: Annotated[str | None, typer.Argument(help="Name of a run; default: all.")] = None,
    store: StoreOption = "store",
    address: Annotated[
        str | None, typer.Option(help="Dashboard of a cluster's head node: show its nodes, too.")
    ] = None,
) -> None:
    """Show each run's stage, progress, time left and last checkpoint; with --address, nodes and actors."""
    from headwater import status as view
    from headwater.cluster.storage.store import Store

    opened = Store(store)
    if run is not None and run not in opened.runs():
        raise HeadwaterError("no such run", where=f"{store}/runs/{run}", fix="list all: headwater status")
    console.print(view.runs_table(opened, run))
    if address:
        from headwater.cluster.jobs.jobs import Jobs

        console.print(view.cluster_table(*Jobs(address).nodes_and_actors()))


def doctor(
    store: Annotated[str | None, typer.Option(help="Check this store, too.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Check a cluster's nodes, too (auto, or host:6379).")
    ] = None,
) -> None:
    """Check this machine, the store and the cluster; print a fix for every problem."""
    table = Table(show_header=False, box=None, pad_edge=False)
    worst = 0
    for finding in _findings(store, address):
        worst = max(worst, ("ok", "warning", "error").index(finding.state))
        fix = f"\n[yellow]→ {escape(finding.fix)}[/]" if finding.fix else ""
        table.add_row(MARKS[finding.state], finding.what, f"{escape(finding.found)}{fix}")
    console.print(table, highlight=False)
    if worst == 2:
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
        with session, console.status("checking the nodes"):
            session.ray()
            yield from list(nodes.examine())
