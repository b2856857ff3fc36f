"""`headwater recipes` and `headwater constraints`: files that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from headwater.options import console
from headwater.tables import show

CONSTRAINTS = Path(__file__).resolve().parents[1] / "data" / "constraints.txt"


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe, to save and change it.")] = None,
) -> None:
    """List the recipes that come with the package, or print one."""
    from headwater.recipe import find, packaged

    if name is not None:
        typer.echo(find(name).read_text(encoding="utf-8"), nl=False)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for known, path in packaged().items():
        with path.open(encoding="utf-8") as lines:
            table.add_row(f"[bold]{known}[/]", next(lines).strip().lstrip("# "))
    show(console, table)


def constraints() -> None:
    """Print the exact versions that this release is tested with, as a pip constraints file."""
    typer.echo(CONSTRAINTS.read_text(encoding="utf-8"), nl=False)
