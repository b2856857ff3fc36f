"""`headwater key`: API keys of an endpoint, and what each has used."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from headwater.options import JsonOption, StoreOption, console
from headwater.tables import print_json, show

if TYPE_CHECKING:
    from headwater.serving.api.keys.usage import Used


class _AddIsImplied(TyperGroup):
    """`headwater key NAME …` is `headwater key add NAME …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and "--help" not in args[:1]:
            args = ["add", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    help="Make, list and revoke API keys; show what each has used. `key NAME` is `key add NAME`.",
    no_args_is_help=True,
    cls=_AddIsImplied,
)
FileOption = Annotated[Path, typer.Option(help="File of keys (`serve.api_keys`).")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Whoever gets the key: letters, digits and . _ @ -")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ROLE|LIMIT=NUMBER]…",
            help="rank: may rank answers; admin: may change documents and keys. "
            "Limits: requests_per_minute, tokens_per_minute, tokens_per_day.",
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="File of keys (`serve.api_keys`) that gets the key's line.")
    ] = None,
) -> None:
    """Print a new API key, once. A file of keys gets only its hash."""
    from headwater.serving.api.keys.auth import new_key
    from headwater.serving.api.keys.key_file import add_key

    if file is not None:
        typer.echo(add_key(str(file), name, words or []))
        return
    secret, line = new_key(name, words or [])
    typer.echo(f"{secret}\n\nFor the file of keys:\n{line}")


@app.command("list")
def list_(file: FileOption, json: JsonOption = False) -> None:
    """List the keys of a file by their ids: names, roles and limits."""
    from headwater.serving.api.keys.auth import read_keys

    keys = [
        {"id": key.id, "name": key.name, "roles": sorted(key.roles), "limits": key.limits.words()}
        for key in read_keys(str(file))
    ]
    if json:
        print_json({"file": str(file), "keys": keys})
        return
    rows = [[each["id"], each["name"], " ".join(each["roles"]), " ".join(each["limits"])] for each in keys]
    show(console, _table(f"keys in {file}", ("id", "name", "roles", "limits"), rows))


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(metavar="NAME|ID", help="As `headwater key list` shows it.")],
    file: FileOption,
) -> None:
    """Remove a key from a file. Endpoints that read the file refuse it a second later."""
    from headwater.serving.api.keys.key_file import revoke_key

    key = revoke_key(str(file), which)
    console.print(f"Revoked {key.id} {escape(key.name)}", highlight=False)


@app.command()
def usage(store: StoreOption = "store", json: JsonOption = False) -> None:
    """Show the requests and tokens of each key by day (UTC), as the endpoint has recorded them."""
    from headwater.cluster.storage.store import Store
    from headwater.serving.api.keys.usage import read_usage

    opened = Store(store)
    opened.check_readable()
    found = read_usage(opened)
    if json:
        days = {day: {key: asdict(used) for key, used in by_key.items()} for day, by_key in found.items()}
        print_json({"store": opened.location, "days": days})
        return
    rows = [
        row
        for day, by_key in found.items()
        for key, used in sorted(by_key.items(), key=lambda each: -each[1].tokens)
        for row in _usage_rows([day, key, used.name], used)
    ]
    columns = ("day", "key", "name", "model", "requests", "prompt tokens", "completion tokens")
    show(console, _table(f"usage in {opened.location}", columns, rows))


def _usage_rows(first: list[str], used: Used) -> list[list[str]]:
    """All that a key has used, and beneath it each model's share, where there are several."""
    shares = used.by_model()
    only = next(iter(shares)) or "not recorded" if len(shares) == 1 else "all"
    rows = [[*first, only, *(f"{n:,}" for n in (used.requests, used.prompt_tokens, used.completion_tokens))]]
    if len(shares) > 1:
        rows += [
            ["", "", "", model or "not recorded", "", *(f"{n:,}" for n in share.values())]
            for model, share in shares.items()
        ]
    return rows


def _table(title: str, columns: tuple[str, ...], rows: list[list[Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    return table
