"""`headwater runs`: the attempts of a store's runs, and how two of them differ."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from headwater.options import JsonOption, StoreOption, console
from headwater.tables import print_json, show

runs_app = typer.Typer(help="List the runs of a store; compare two.", no_args_is_help=True)
RunArgument = Annotated[str, typer.Argument(metavar="RUN[/ATTEMPT]", help="Default: the newest attempt.")]


@runs_app.command("list")
def list_(store: StoreOption = "store", json: JsonOption = False) -> None:
    """List every attempt of every run, oldest first."""
    from headwater import runs
    from headwater.cluster.runtime.attempts import attempts
    from headwater.cluster.storage.store import Store

    opened = Store(store)
    opened.check_readable()
    records = attempts(opened)
    if json:
        print_json({"store": opened.location, "attempts": [record.model_dump() for record in records]})
    else:
        show(console, runs.attempts_table(opened.location, records))


@runs_app.command()
def diff(a: RunArgument, b: RunArgument, store: StoreOption = "store", json: JsonOption = False) -> None:
    """Show the settings, stages and metrics in which two runs differ."""
    from headwater import runs
    from headwater.cluster.storage.store import Store

    opened = Store(store)
    opened.check_readable()
    differences = runs.difference(opened, a, b)
    if json:
        print_json({"a": a, "b": b, "differences": [asdict(one) for one in differences]})
    elif differences:
        show(console, runs.difference_table(a, b, differences))
    else:
        console.print(f"{a} and {b} do not differ", highlight=False)
