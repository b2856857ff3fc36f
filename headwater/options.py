"""Shared by the commands: the console, common options, opening a recipe and a session."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from headwater.cluster.runtime.session import Session
    from headwater.recipe import Recipe

console = Console()

RecipeArgument = Annotated[
    Path, typer.Argument(help="A recipe file, or the name of a packaged recipe (see headwater recipes).")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override a key of the recipe; repeatable."),
]
UntilOption = Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")]
StoreOption = Annotated[str, typer.Option(help="Store: a folder or s3://bucket/prefix.")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="HEAD:6379",
        help="Ray cluster to join from one of its nodes (auto finds the node's own); default: this machine.",
    ),
]
DASHBOARD = "http://127.0.0.1:8265"
DASHBOARD_OPTION = typer.Option(
    "--dashboard",
    metavar="http://HEAD:8265",
    envvar=["HEADWATER_DASHBOARD", "HEADWATER_ADDRESS"],
    help="Dashboard of a cluster's head node.",
)
DashboardOption = Annotated[str, DASHBOARD_OPTION]
OLD_SPELLING = {"token_normalize_func": lambda name: "dashboard" if name == "address" else name}
"""Context settings of the commands that take a dashboard: version 0.1 called their option `--address`."""
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
MaxWorkersOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Maximum number of workers; an autoscaling cluster adds nodes until that many run. "
        "0: this process does their work one after another, which is faster for little of it.",
    ),
]
GpusOption = Annotated[float, typer.Option(min=0, help="GPUs per worker; 0 uses one CPU.")]
UrlOption = Annotated[str, typer.Option(help="Address of the endpoint.")]


def open_recipe(path: Path, overrides: list[str] | None) -> Recipe:
    from headwater.recipe import load

    return load(path, overrides or [])


@contextlib.contextmanager
def open_session(
    store: str, address: str | None, run: str, *, driver: bool = False, max_workers: int | None = None
) -> Iterator[Session]:
    """A session that logs to `<store>/runs/<run>/`: Ray's output to run.log, its own lines to log.jsonl.

    A `driver` locks the store, so that only one process writes artifacts there, and keeps the record of an
    attempt in a folder of its own below, with its logs. With an object store, the logs are written to a
    temporary folder and those of a driver uploaded.
    """
    from headwater.cluster.runtime.run_record import next_attempt
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.filesystem import is_remote
    from headwater.cluster.storage.store import Store

    opened, attempt = Store(store), None
    with contextlib.ExitStack() as stack:
        if driver:
            opened.check_writable()
            tell = functools.partial(console.print, style="yellow", highlight=False, soft_wrap=True)
            stack.enter_context(opened.locked(run, tell))
            attempt = next_attempt(opened, run)
        if is_remote(store):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-logs-")))
        else:
            folder = Path(opened.location) / "runs" / run / str(attempt or "")
        yield stack.enter_context(
            Session(
                opened,
                console=console,
                address=address,
                logs_to=folder,
                run=run if driver else None,
                attempt=attempt,
                max_workers=max_workers,
            )
        )
