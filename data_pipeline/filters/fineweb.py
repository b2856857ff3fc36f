"""FineWeb's own quality rules (Penedo et al. 2024, https://arxiv.org/abs/2406.17557), with datatrove's
definitions. They detect lists, menus and pages of repeated lines by the shape of the lines."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from headwater.data_pipeline.filters.filter import FilterConfig, Measure
from headwater.data_pipeline.filters.gopher import duplicates
from headwater.data_pipeline.text.words.document_text import Text
from headwater.data_pipeline.text.words.punctuation import TERMINAL_PUNCTUATION
from headwater.data_pipeline.verdict import Rule, Scores

ENDS = tuple(TERMINAL_PUNCTUATION)


class FineWebConfig(FilterConfig):
    """FineWeb's line rules. Fractions are between 0 and 1."""

    measured_with: ClassVar[frozenset[str] | None] = frozenset({"short_line"})

    min_lines: int = Field(1, ge=0)
    """Minimum number of lines for `min_lines_with_end` to apply. Set it to 2 if many texts are a single line,
    where the fraction can only be 0 or 1."""
    min_lines_with_end: float = Field(0.12, ge=0, le=1)
    """Minimum fraction of lines that end in terminal punctuation."""
    short_line: int = Field(30, ge=0)
    """Maximum length of a short line, in characters."""
    max_short_lines: float = Field(0.67, ge=0)
    """Maximum fraction of short lines."""
    max_duplicate_line_characters: float = Field(0.01, ge=0)
    """Maximum fraction of characters in repeated lines."""
    max_newlines_per_word: float = Field(0.3, ge=0)
    """Maximum number of newlines per word. Texts above it are lists."""

    def measurer(self) -> Measure:
        return lambda found: measure(found.text, self)

    def rules(self) -> list[Rule]:
        enough = "lines", self.min_lines
        return [
            Rule("empty", "empty"),
            Rule("line_punct_ratio", "line_punct_ratio", least=self.min_lines_with_end, since=enough),
            Rule("short_line_ratio", "short_line_ratio", most=self.max_short_lines),
            Rule("char_dup_ratio", "char_dup_ratio", most=self.max_duplicate_line_characters),
            Rule("list_ratio", "list_ratio", most=self.max_newlines_per_word),
        ]


def measure(text: Text, config: FineWebConfig) -> Scores:
    lines = text.lines
    if not lines:
        return {"empty": 1}
    return {
        "lines": len(lines),
        "line_punct_ratio": sum(line.endswith(ENDS) for line in lines) / len(lines),
        "short_line_ratio": sum(len(line) <= config.short_line for line in lines) / len(lines),
        "char_dup_ratio": duplicates(lines)[1] / len(text.text.replace("\n", "")),
        "list_ratio": text.text.count("\n") / max(1, len(text.words)),
    }
