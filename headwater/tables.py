"""Output of the commands: tables whose words stay whole, and JSON documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table

UNLIMITED = 1 << 20


def show(console: Console, *parts: RenderableType) -> None:
    """Print the parts. A table gets the widths at which no word is broken.

    Piped, a table is as wide as its content, so that every row is one line. On a screen, long cells wrap
    between words; a table that still does not fit becomes one block of lines per row.
    """
    for part in parts:
        if isinstance(part, Table):
            _show_table(console, part)
        else:
            console.print(part, highlight=False, soft_wrap=True)


def _show_table(console: Console, table: Table) -> None:
    cells = [[console.render_str(str(cell)) for cell in (each.header, *each.cells)] for each in table.columns]
    wide = console.options.update_width(UNLIMITED)
    sizes = [[Measurement.get(console, wide, cell) for cell in column] for column in cells]
    most = [max(size.maximum for size in column) for column in sizes]
    least = [max(size.minimum for size in column) for column in sizes]
    least = [b if column.no_wrap else a for a, b, column in zip(least, most, table.columns, strict=True)]
    borders = Measurement.get(console, wide, table).maximum - sum(most)
    room = UNLIMITED if not console.is_terminal else console.width - borders
    if sum(least) > room:
        _show_blocks(console, table, cells)
        return
    widths = _widths(least, most, room)
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width
    table.width = sum(widths) + borders
    console.print(table, highlight=False, crop=False)


def _widths(least: Sequence[int], most: Sequence[int], room: int) -> list[int]:
    """Between `least` and `most` for each column, in sum at most `room`: narrow columns are served first."""
    widths, spare = list(least), room - sum(least)
    order = sorted(range(len(least)), key=lambda i: most[i] - least[i])
    for left, i in zip(range(len(order), 0, -1), order, strict=True):
        given = min(most[i] - least[i], spare // left)
        widths[i] += given
        spare -= given
    return widths


def _show_blocks(console: Console, table: Table, cells: list[list[Any]]) -> None:
    if table.title:
        console.print(table.title, style="table.title", soft_wrap=True)
    name_width = max(column[0].cell_len for column in cells) if table.show_header else 0
    for row in range(1, len(cells[0])):
        for name, value in ((column[0], column[row]) for column in cells):
            if value.plain:
                console.print(f"{name.plain:<{name_width}}", value, highlight=False, soft_wrap=True)
        console.print()


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
