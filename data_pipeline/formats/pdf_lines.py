"""Lines of PDF pages → paragraphs, without running headers, footers and page numbers."""

from __future__ import annotations

import collections
import itertools
import re
import statistics
from collections.abc import Sequence

from headwater.data_pipeline.formats.pdf_layout import Line, Page, merged, rows

EDGE_LINES = 3
"""Lines at the top and at the bottom of a page that may be headers and footers."""
NEIGHBOURS = 4
"""A header recurs on at least two of this many pages before and after (the left pages' header on every
second)."""
SAME_HEIGHT = 4.0
"""Points by which the place of a header may differ between pages."""
NUMBER = re.compile(r"\d+|\b[ivxlc]+\b", re.IGNORECASE)
LABEL = re.compile(r"^(\d{1,5})\b|\b(\d{1,5})$")
ALONE = re.compile(r"\W{0,3}(page|p\.)?\s*(\d{1,5}|[ivxlc]{1,7})(\s*(of|/)\s*\d{1,5})?\W{0,3}", re.IGNORECASE)
WIDER = 1.35
"""A distance between lines of this many times the usual one separates paragraphs."""
LOOSE = 1.6
"""Largest usual distance between the lines of a paragraph, in line heights."""
INDENTED, SHORT = 0.8, 0.8
"""First-line indent in line heights; fraction of the column below which a line is a paragraph's last."""
OTHER_SIZE = 1.18
HYPHENATED = re.compile(r"(\w+)-$")
FIRST_WORD = re.compile(r"^(\w+)(-\w+)*")
LEADER = re.compile(r"(\s?\.){4,}\s*")
"""Dots between an entry of a table of contents and its page."""
ITEM = re.compile(r"([•●▪◦‣∙*–-]|\(?(\d{1,3}|[a-zA-Z]|[ivx]{2,4})[.)])\s")
WORD = re.compile(r"[\w-]+")
SENTENCE_END = re.compile(r"[.!?:;”\"')\]]$")


def paragraphs(pages: Sequence[Page]) -> str:
    """Text of the pages: one line per paragraph, an empty line between paragraphs."""
    kept = [page.lines() for page in without_running_lines(pages)]
    whole = collections.Counter(word for page in kept for line in page for word in WORD.findall(line.text))
    found: list[str] = []
    for page in kept:
        for number, paragraph in enumerate(_grouped(page)):
            text = LEADER.sub(" ", _joined([line.text for line in paragraph], whole)).rstrip()
            if found and number == 0 and _goes_on(found[-1], text):
                found[-1] = _joined([found[-1], text], whole)
            else:
                found.append(text)
    return "\n\n".join(text for text in found if text.strip())


def without_running_lines(pages: Sequence[Page]) -> list[Page]:
    """The pages without rows at their top and bottom that recur on the pages around, up to numbers, or that
    have a number which counts the pages."""
    all_rows = [rows(page.segments) for page in pages]
    edges = [[(place, merged(page[place])) for place in _edges(len(page))] for page in all_rows]
    running: list[set[int]] = [set() for _ in pages]
    needed = 2 if len(pages) >= 4 else 1
    for number in range(len(pages)):
        near = [
            n
            for n in range(max(0, number - NEIGHBOURS), min(len(pages), number + NEIGHBOURS + 1))
            if n != number
        ]
        for place, line in edges[number]:
            level = [(other.text, n) for n in near for _, other in edges[n] if _level(other, line)]
            form, first = _form(line.text), _first_page(line.text, number)
            same = {n for text, n in level if _form(text) == form}
            counted = {n for text, n in level if first is not None and _first_page(text, n) == first}
            if len(same) >= needed or len(counted) >= needed or same & counted:
                running[number].add(place)
        left = [(place, line) for place, line in edges[number] if place not in running[number]]
        if left and len(all_rows[number]) - len(running[number]) >= 3:
            running[number] |= {place for place, line in (left[0], left[-1]) if ALONE.fullmatch(line.text)}
    dropped = [
        {id(segment) for place in places for segment in page[place]} if len(places) < len(page) else set()
        for page, places in zip(all_rows, running, strict=True)
    ]
    return [
        Page([segment for segment in page.segments if id(segment) not in gone], page.upright)
        for page, gone in zip(pages, dropped, strict=True)
    ]


def _edges(count: int) -> list[int]:
    """Places of the highest and the lowest of `count` rows."""
    return sorted({*range(min(EDGE_LINES, count)), *range(max(0, count - EDGE_LINES), count)})


def _form(text: str) -> str:
    return " ".join(NUMBER.sub("#", text).lower().split())


def _first_page(text: str, page: int) -> int | None:
    """The number of the file's first page, if the number at the line's start or end is the page's own."""
    found = LABEL.search(text)
    return int(found.group(1) or found.group(2)) - page if found else None


def _level(one: Line, other: Line) -> bool:
    return abs(one.bottom - other.bottom) <= SAME_HEIGHT


def _grouped(page: Sequence[Line]) -> list[list[Line]]:
    """Lines of a page in paragraphs."""
    groups: list[list[Line]] = []
    pitches = [
        a.bottom - b.bottom for a, b in itertools.pairwise(page) if 0 < a.bottom - b.bottom < 3 * a.height
    ]
    if page:
        pitch = LOOSE * statistics.median(line.height for line in page)
        pitch = min([pitch, statistics.median(pitches)] if pitches else [pitch])
    for line in page:
        if groups and not _begins(groups[-1], line, pitch):
            groups[-1].append(line)
        else:
            groups.append([line])
    return groups


def _begins(group: Sequence[Line], line: Line, pitch: float) -> bool:
    """Whether a line begins a paragraph after the lines of `group`."""
    last = group[-1]
    down = last.bottom - line.bottom
    if HYPHENATED.search(last.text) and line.text[:1].islower():
        return False
    sizes = sorted((last.height, line.height))
    if sizes[1] > OTHER_SIZE * max(sizes[0], 0.1) or ITEM.match(line.text) or LEADER.search(last.text):
        return True
    if down <= 0:  # the top of the next column
        return not _goes_on(last.text, line.text)
    if down > WIDER * pitch:
        return True
    right, left = max(each.right for each in group), min(each.left for each in group)
    if (
        len(group) > 1
        and line.left - left > INDENTED * line.height
        and line.left - last.left > INDENTED * line.height
    ):
        return bool(SENTENCE_END.search(last.text))
    ends_early = last.width < SHORT * max(right - left, line.width)
    return ends_early and bool(SENTENCE_END.search(last.text))


def _goes_on(text: str, following: str) -> bool:
    """Whether a paragraph goes on over the end of a column or page."""
    return (not SENTENCE_END.search(text) and following[:1].islower()) or text.endswith("-")


def _joined(lines: Sequence[str], whole: collections.Counter[str]) -> str:
    """Lines as one, with words joined that were divided at a line's end.

    The hyphen stays if the document has the word with a hyphen elsewhere, and not without, or if the next
    line begins with a capital or a digit.
    """
    text = lines[0]
    for line in lines[1:]:
        first, second = HYPHENATED.search(text), FIRST_WORD.search(line)
        if first is None or second is None:
            text += line if text.endswith(("—", "/")) else f" {line}"
        elif second.group(1)[0].islower() and (
            first.group(1) + second.group(1) in whole or f"{first.group(1)}-{second.group(0)}" not in whole
        ):
            text = text[:-1] + line
        else:
            text += line
    return text
