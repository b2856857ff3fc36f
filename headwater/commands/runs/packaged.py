"""`headwater recipes` and `headwater constraints`: files that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from headwater.options import console
from headwater.tables import show

NEEDS = "# Needs: "
CONSTRAINTS = Path(__file__).resolve().parents[2] / "data" / "constraints.txt"


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe, to save and change it.")] = None,
) -> None:
    """List the recipes that come with the package with what each needs, or print one."""
    from headwater.recipe import find, packaged

    if name is not None:
        typer.echo(find(name).read_text(encoding="utf-8"), nl=False)
        return
    table = Table("recipe", "what it does", "needs", box=None, pad_edge=False)
    for known, path in packaged().items():
        what, needs = summary(path)
        table.add_row(f"[bold]{known}[/]", escape(what), escape(needs))
    show(console, table)


def summary(recipe: Path) -> tuple[str, str]:
    """What a packaged recipe does, and what it needs: its first line, and the one after `NEEDS`."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    needs = next((line for line in lines if line.startswith(NEEDS)), NEEDS)
    return lines[0].removeprefix("# "), needs.removeprefix(NEEDS)


def constraints() -> None:
    """Print the exact versions that this release is tested with, as a pip constraints file."""
    typer.echo(CONSTRAINTS.read_text(encoding="utf-8"), nl=False)
