"""Shared by the commands: the console, common options, opening a recipe and a session."""

from __future__ import annotations

import contextlib
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
    typer.Option(help="Ray cluster to connect to (ray://host:10001, or auto); default: this machine."),
]
MaxWorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Maximum number of workers; an autoscaling cluster adds nodes until that many run.",
    ),
]
UrlOption = Annotated[str, typer.Option(help="Address of the endpoint.")]


def open_recipe(path: Path, overrides: list[str] | None) -> Recipe:
    from headwater.recipe import load

    return load(path, overrides or [])


@contextlib.contextmanager
def open_session(
    store: str, address: str | None, run: str, *, driver: bool = False, max_workers: int | None = None
) -> Iterator[Session]:
    """A session that logs to `<store>/runs/<run>/`: Ray's output to run.log, its own lines to log.jsonl.

    With an object store, the logs go to a temporary folder. A `driver` locks a store on disk, so that only
    one process writes artifacts there, and keeps the run's record.
    """
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.filesystem import is_remote
    from headwater.cluster.storage.store import Store

    opened = Store(store)
    with contextlib.ExitStack() as stack:
        if driver:
            opened.check_writable()
            stack.enter_context(opened.locked())
        if is_remote(store):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-logs-")))
        else:
            folder = Path(opened.location) / "runs" / run
        yield stack.enter_context(
            Session(
                opened,
                console=console,
                address=address,
                logs_to=folder,
                run=run if driver else None,
                max_workers=max_workers,
            )
        )
