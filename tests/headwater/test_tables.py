"""Tables on a narrow screen and in a pipe: words stay whole."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from headwater.tables import show

ROWS = [
    ("pretrain", "0123456789abcdef", "loss 4.23 perplexity 68.7", "s3://bucket/a/rather/long/prefix"),
    ("tokenizer", "fedcba9876543210", "vocabulary 4,096", "s3://bucket/another/rather/long/prefix"),
]
WORDS = {word for row in ROWS for cell in row for word in cell.split()}


def shown(width: int, terminal: bool) -> list[str]:
    table = Table("stage", "key", "metrics", "made from", title="artifacts of s3://bucket/runs")
    for row in ROWS:
        table.add_row(*row)
    screen = io.StringIO()
    show(Console(file=screen, width=width, force_terminal=terminal, color_system=None), table)
    return screen.getvalue().splitlines()


@pytest.mark.parametrize("width", [30, 60, 100, 200])
def test_no_word_is_broken_on_a_screen_of_any_width(width: int) -> None:
    lines = shown(width, terminal=True)
    assert set(" ".join(lines).replace("│", " ").split()) >= WORDS
    if width >= 100:  # there is room for the longest word of each column
        assert max(map(len, lines)) <= width


def test_a_screen_too_narrow_for_the_columns_shows_a_block_per_row() -> None:
    lines = shown(30, terminal=True)
    assert "stage     pretrain" in lines and "made from s3://bucket/a/rather/long/prefix" in lines


def test_a_piped_row_is_one_line() -> None:
    (line,) = [line for line in shown(40, terminal=False) if "pretrain" in line]
    assert all(cell in line for cell in ROWS[0])
