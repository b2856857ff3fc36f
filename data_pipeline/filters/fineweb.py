"""FineWeb's own quality rules (Penedo et al. 2024, https://arxiv.org/abs/2406.17557), with datatrove's
definitions: they find lists, menus and pages of repeated lines by the shape of the lines."""

from __future__ import annotations

from cluster.stage import StageConfig
from data_pipeline.filters.gopher import duplicates
from data_pipeline.filters.marks import TERMINAL_PUNCTUATION
from data_pipeline.filters.text import Text
from data_pipeline.filters.verdict import Rejection

ENDS = tuple(TERMINAL_PUNCTUATION)


class FineWebConfig(StageConfig):
    """FineWeb's rules about lines."""

    enabled: bool = True
    """Off: the step is passed over."""
    min_lines: int = 1
    """The rule about line ends holds from this number of lines on. Where texts are one line each, its share
    can only be 0 or 1, and says only how the page's last caption ended: 2 leaves them out."""
    min_lines_with_end: float = 0.12
    """Share of the lines that must end in terminal punctuation."""
    short_line: int = 30
    """Characters up to which a line is short."""
    max_short_lines: float = 0.67
    """Share of the lines that may be short."""
    max_duplicate_line_characters: float = 0.01
    """Share of the characters that may be in lines that occurred before."""
    max_newlines_per_word: float = 0.3
    """Above this the text is a list."""


def judge(text: Text, config: FineWebConfig) -> Rejection | None:
    lines = text.lines
    if not lines:
        return Rejection("empty")
    ended = sum(line.endswith(ENDS) for line in lines) / len(lines)
    if len(lines) >= config.min_lines and ended < config.min_lines_with_end:
        return Rejection("line_punct_ratio", ended, config.min_lines_with_end)
    short = sum(len(line) <= config.short_line for line in lines) / len(lines)
    if short > config.max_short_lines:
        return Rejection("short_line_ratio", short, config.max_short_lines)
    repeated = duplicates(lines)[1] / len(text.text.replace("\n", ""))
    if repeated > config.max_duplicate_line_characters:
        return Rejection("char_dup_ratio", repeated, config.max_duplicate_line_characters)
    newlines = text.text.count("\n") / max(1, len(text.words))
    if newlines > config.max_newlines_per_word:
        return Rejection("list_ratio", newlines, config.max_newlines_per_word)
    return None
