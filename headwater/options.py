"""What the commands share: the screen, their common options, opening a recipe and a session."""

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

RecipeArgument = Annotated[Path, typer.Argument(help="A recipe file, such as recipes/quickstart.yaml.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Overrule a key of the recipe; may be given again."),
]
UntilOption = Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")]
StoreOption = Annotated[str, typer.Option(help="The store: a folder or s3://bucket/prefix.")]
AddressOption = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster (ray://host:10001, or auto). Without it: this machine."),
]
MaxWorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most workers at a time; an autoscaling cluster is asked for nodes until so many are at work.",
    ),
]
UrlOption = Annotated[str, typer.Option(help="The endpoint.")]


def open_recipe(path: Path, overrides: list[str] | None) -> Recipe:
    from headwater.recipe import load

    return load(path, overrides or [])


@contextlib.contextmanager
def open_session(
    store: str, address: str | None, run: str, *, driver: bool = False, max_workers: int | None = None
) -> Iterator[Session]:
    """A session that logs to `<store>/runs/<run>/`: Ray's noise to run.log, its own lines to log.jsonl.

    For an object store the logs lie in a temporary folder meanwhile. `driver` is the one process that
    may make artifacts in a store on disk; it keeps the run's record.
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
