"""Characters of a PDF page with their boxes → lines in reading order.

Characters are first joined to segments: pieces of a line without a wide gap. Columns are then found by their
gutters: vertical stripes that hardly any segment crosses. Segments that cross a gutter (titles, wide figures)
divide the page into bands; within a band, the left column is read before the right. Coordinates are PDF
points (1/72 inch) with y upwards.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

GAP = 1.6
"""A gap of this many character heights between two characters of a line separates segments."""
BLANK = 0.16
"""A gap of this many character heights is a blank."""
GUTTER_POINTS = 7.0
"""Least width of a gutter between columns."""
CROSSING = 0.3
"""Largest fraction of a page's segments that may cross a gutter."""
COLUMN_LINES = 4
"""Least number of lines in a column."""
COLUMN_FILLED = 0.55
"""Least median width of a column's segments, as a fraction of the column. Cells of tables are narrower."""
DEEPEST = 4
"""Columns are divided at most this many times."""


class Character(NamedTuple):
    text: str
    left: float
    bottom: float
    right: float
    top: float
    after_blank: bool = False
    after_break: bool = False
    sideways: bool = False


@dataclass
class Line:
    """A line, or a piece of one, with its box."""

    text: str
    left: float
    bottom: float
    right: float
    top: float

    @property
    def height(self) -> float:
        return self.top - self.bottom

    @property
    def width(self) -> float:
        return self.right - self.left


@dataclass
class Page:
    segments: list[Line]
    upright: bool = True

    def lines(self) -> list[Line]:
        """Lines in reading order. A sideways page is read in the order of its content."""
        return _ordered(self.segments, 0) if self.upright else self.segments


def page_of(characters: Sequence[Character]) -> Page:
    """Sideways text, such as a stamp in the margin, is left out of a page that is otherwise upright."""
    upright = [character for character in characters if not character.sideways]
    if 2 * len(upright) < len(characters):
        return Page(_segments(characters), upright=False)
    return Page(_segments(upright))


def _segments(characters: Iterable[Character]) -> list[Line]:
    segments: list[Line] = []
    pieces: list[str] = []
    last: Character | None = None
    for this in characters:
        if last is None or this.after_break or _apart(last, this, segments[-1]):
            if segments:
                segments[-1].text = "".join(pieces)
            segments.append(Line("", this.left, this.bottom, this.right, this.top))
            pieces = [this.text]
        else:
            segment, height = segments[-1], max(this.top - this.bottom, 1.0)
            blank = this.after_blank or this.left - last.right > BLANK * height * 2
            pieces += [" ", this.text] if blank else [this.text]
            segment.left, segment.right = min(segment.left, this.left), max(segment.right, this.right)
            segment.bottom, segment.top = min(segment.bottom, this.bottom), max(segment.top, this.top)
        last = this
    if segments:
        segments[-1].text = "".join(pieces)
    return segments


def _apart(last: Character, this: Character, segment: Line) -> bool:
    """Whether a character begins another segment: far right of the last one, left of it, or on another
    line."""
    height = max(this.top - this.bottom, last.top - last.bottom, 1.0)
    if this.left - last.right > GAP * height or this.right < last.left - 2 * height:
        return True
    return min(this.top, segment.top) - max(this.bottom, segment.bottom) < 0.2 * min(
        this.top - this.bottom, segment.height
    )


def _ordered(segments: list[Line], depth: int) -> list[Line]:
    gutter = _gutter(segments) if depth < DEEPEST else None
    if gutter is None:
        return _rows(segments)
    spanning = sorted((s for s in segments if s.left < gutter < s.right), key=lambda s: -s.top)
    rest = [s for s in segments if not s.left < gutter < s.right]
    ordered: list[Line] = []
    for edge in [*(s.bottom + s.height / 2 for s in spanning), float("-inf")]:
        band = [s for s in rest if s.bottom + s.height / 2 > edge]
        rest = [s for s in rest if s.bottom + s.height / 2 <= edge]
        for side in (
            [s for s in band if s.right <= gutter],
            [s for s in band if s.left >= gutter],
        ):
            ordered += _ordered(side, depth + 1)
        if spanning:
            ordered.append(spanning.pop(0))
    return _rejoined(ordered)


def _rejoined(lines: list[Line]) -> list[Line]:
    """Spanning segments of one line, side by side again."""
    joined: list[Line] = []
    for line in lines:
        if joined and _same_row(joined[-1], line) and line.left >= joined[-1].right:
            joined[-1] = merged([joined[-1], line])
        else:
            joined.append(line)
    return joined


def _gutter(segments: list[Line]) -> float | None:
    """x of the least crossed, widest stripe between two columns of running text; None if there is none."""
    if len(segments) < 2 * COLUMN_LINES:
        return None
    left, right = min(s.left for s in segments), max(s.right for s in segments)
    if not 0 < right - left < 20_000:
        return None
    bins = int(right - left) + 2
    changes = [0] * (bins + 1)
    for segment in segments:
        changes[int(segment.left - left)] += 1
        changes[min(bins, int(segment.right - left) + 1)] -= 1
    covering = list(itertools.accumulate(changes[:bins]))
    places = itertools.groupby(range(bins), key=lambda place: covering[place])
    stripes = [(count, list(stripe)) for count, stripe in places if count <= CROSSING * len(segments)]
    for _, stripe in sorted(stripes, key=lambda found: (found[0], -len(found[1]))):
        middle = left + stripe[0] + len(stripe) / 2
        if len(stripe) >= GUTTER_POINTS and _column(segments, middle, -1) and _column(segments, middle, 1):
            return middle
    return None


def _column(segments: list[Line], gutter: float, side: int) -> bool:
    """Whether the segments on one side are lines of running text rather than cells of a table."""
    there = [s for s in segments if (s.left >= gutter if side > 0 else s.right <= gutter)]
    if len(there) < COLUMN_LINES:
        return False
    width = max(s.right for s in there) - min(s.left for s in there)
    filled = statistics.median(s.width for s in there)
    height = statistics.median(s.height for s in there)
    return filled >= COLUMN_FILLED * width and width >= 8 * height


def _rows(segments: list[Line]) -> list[Line]:
    return [merged(row) for row in rows(segments)]


def rows(segments: Iterable[Line]) -> list[list[Line]]:
    """Segments of each row, from left to right, the highest row first."""
    found: list[list[Line]] = []
    for segment in sorted(segments, key=lambda s: (-(s.top + s.bottom), s.left)):
        if found and _same_row(found[-1][0], segment):
            found[-1].append(segment)
        else:
            found.append([segment])
    return [sorted(row, key=lambda s: s.left) for row in found]


def _same_row(one: Line, other: Line) -> bool:
    overlap = min(one.top, other.top) - max(one.bottom, other.bottom)
    return overlap > 0.5 * min(one.height, other.height)


def merged(row: Sequence[Line]) -> Line:
    return Line(
        " ".join(s.text for s in row),
        min(s.left for s in row),
        min(s.bottom for s in row),
        max(s.right for s in row),
        max(s.top for s in row),
    )
