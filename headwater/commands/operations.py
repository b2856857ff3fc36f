"""`headwater status` and `headwater doctor`: what is going on, and whether it can go well."""

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
    run: Annotated[str | None, typer.Argument(help="One run; all of them unless given.")] = None,
    store: StoreOption = "store",
    address: Annotated[
        str | None, typer.Option(help="Show a cluster's nodes too: the dashboard of its head.")
    ] = None,
) -> None:
    """What runs where: stage, progress, time left, last checkpoint; the nodes and what lives on them."""
    from headwater import status as view
    from headwater.cluster.storage.store import Store

    opened = Store(store)
    if run is not None and run not in opened.runs():
        raise HeadwaterError("no such run", where=f"{store}/runs/{run}", fix="headwater status shows all")
    console.print(view.runs_table(opened, run))
    if address:
        from headwater.cluster.jobs.jobs import Jobs

        console.print(view.cluster_table(*Jobs(address).nodes_and_actors()))


def doctor(
    store: Annotated[str | None, typer.Option(help="Look at this store too.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Look at a cluster's nodes too (auto, or host:6379).")
    ] = None,
) -> None:
    """Look at this machine, the store and the cluster, and say what to do about what will not do."""
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
        with session, console.status("asking the nodes"):
            session.ray()
            yield from list(nodes.examine())
