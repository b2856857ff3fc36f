"""Own files as conversations, preference pairs or prompts; what cannot be used is named and skipped."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.sources.items import Unread
from headwater.llm.examples.conversations import Conversation, split_of
from headwater.llm.examples.own_data.formats import (
    ANSWER_COLUMNS,
    PAIRS,
    Fields,
    guess,
    pairs_of,
    reason_of,
    talks_of,
)
from headwater.llm.examples.own_data.messages import BadRecord, is_answered
from headwater.llm.examples.own_data.records import Item, records
from headwater.llm.examples.own_data.source import DataSource
from headwater.llm.examples.preferences import Preference, cut_sides

log = logging.getLogger("headwater")

LOOKED_AT = 100
"""Records of a file that `format: auto` and the check of `columns` look at."""
OWN = "own"
"""`Preference.source` of pairs from own files."""

T = TypeVar("T")


@dataclass(frozen=True)
class Prompt:
    """A prompt for reinforcement learning, with the answer that a verifier compares with."""

    messages: Conversation
    """Ends with a message of the user."""
    reference: str | None
    origin: str
    """`FILE:LINE` (or row) of its record."""


def conversations(source: DataSource, file: str) -> Iterator[tuple[str, Conversation | Unread]]:
    """(`FILE:LINE`, conversation with an answer, or what is wrong with the record) of one file.

    A record of several conversations (a tree) yields each. Raises HeadwaterError for a file that is
    unreadable, of no known format, of several formats, without a column that is asked for, or without a
    usable record.
    """
    return OwnFile(source, file).conversations()


def preferences(source: DataSource, file: str) -> Iterator[tuple[str, Preference | Unread]]:
    """Likewise pairs of answers, of the formats `preference`, `hh` and `oasst`."""
    return OwnFile(source, file).preferences()


def prompts(source: DataSource, file: str) -> Iterator[tuple[str, Prompt | Unread]]:
    """Likewise prompts, of every format. The reference is the column `reference`, else the last answer."""
    return OwnFile(source, file).prompts()


def split_of_record(where: str) -> Literal["train", "heldout"]:
    """The split of a record, by its file's name without the folder and its line."""
    return split_of(where.rpartition("/")[2])


class OwnFile:
    """One file of a source. `format` is known once the first record was read."""

    unit = "row"
    """What records are counted in: `line` for JSON Lines."""

    def __init__(self, source: DataSource, path: str) -> None:
        self.source, self.path = source, path
        self.format: str = "" if source.format == "auto" else source.format

    def conversations(self) -> Iterator[tuple[str, Conversation | Unread]]:
        return self._converted(self._talks)

    def preferences(self) -> Iterator[tuple[str, Preference | Unread]]:
        for where, pair in self._converted(self._pairs):
            yield where, pair if isinstance(pair, Unread) else replace(pair, origins=(where,))

    def prompts(self) -> Iterator[tuple[str, Prompt | Unread]]:
        for where, prompt in self._converted(_prompts):
            yield where, prompt if isinstance(prompt, Unread) else Prompt(*prompt, where)

    def problem(self, where: str, reason: str, detail: str) -> Unread:
        """What is wrong with the record of an origin, `FILE:LINE`, found out later."""
        return Unread(self.path, f"{self.unit} {where.rpartition(':')[2]}", reason, detail)

    @staticmethod
    def _talks(format: str, fields: Fields) -> list[Conversation]:
        talks = talks_of(format, fields)
        for talk in talks:
            if not is_answered(talk):
                if format in ANSWER_COLUMNS:
                    fields.need(ANSWER_COLUMNS[format])
                raise BadRecord("no_answer", "no message of the assistant")
        return talks

    def _pairs(self, format: str, fields: Fields) -> list[Preference]:
        if format not in PAIRS:
            raise HeadwaterError(
                f"records of the format {format} hold no pairs of answers",
                where=self.path,
                fix="give `prompt`, `chosen` and `rejected`, or name those columns in `columns`",
            )
        chosen, rejected = (reason_of(fields, side) == "length" for side in ("chosen", "rejected"))
        cut = cut_sides(chosen=chosen, rejected=rejected)
        return [Preference(*pair, OWN, cut=cut) for pair in pairs_of(format, fields)]

    def _converted(self, convert: Callable[[str, Fields], list[T]]) -> Iterator[tuple[str, T | Unread]]:
        used, seen, first = 0, 0, None
        for number, place, record in self._records():
            seen += 1
            where, self.unit = f"{self.path}:{number}", place.split()[0]
            if isinstance(record, Unread):
                bad: Unread | None = record
            else:
                fields, bad = Fields(record, self.source.columns), None
                try:
                    for value in convert(self.format, fields):
                        used += 1
                        yield where, value
                except BadRecord as error:
                    if error.reason == "missing_column":
                        self._check_same_format(place, fields)
                    bad = Unread(self.path, place, error.reason, error.detail)
            if bad is not None:
                first = first or bad
                yield where, bad
        if not used:
            raise self._nothing(seen, first)

    def _records(self) -> Iterator[Item]:
        found = records(self.path)
        start = list(itertools.islice(found, LOOKED_AT))
        looked = [
            (item.place, Fields(item.record, self.source.columns))
            for item in start
            if not isinstance(item.record, Unread)
        ]
        if looked:
            self._check_columns([fields for _, fields in looked])
            if not self.format:
                self.format = self._guessed(looked)
                log.info("%s: format %s, told from its columns", self.path, self.format)
        return itertools.chain(start, found)

    def _check_columns(self, looked: list[Fields]) -> None:
        for part, name in self.source.columns.items():
            if not any(fields.has(part) for fields in looked):
                there = dict.fromkeys(key for fields in looked for key in fields.record)
                raise HeadwaterError(
                    f"no column `{name}` (`columns.{part}`) in the first {len(looked)} records",
                    where=self.path,
                    fix=f"name one of its columns: {', '.join(there)}",
                )

    def _guessed(self, looked: list[tuple[str, Fields]]) -> str:
        found: dict[str, str] = {}
        for place, fields in looked:
            if format := guess(fields):
                found.setdefault(format, place)
        if not found:
            there = ", ".join(dict.fromkeys(key for _, fields in looked for key in fields.record))
            raise HeadwaterError(
                f"no known format has these columns: {there}",
                where=self.path,
                fix="set `format`, and name the columns that it needs in `columns: {prompt: NAME, …}`",
            )
        if len(found) > 1:
            raise self._mixed(found)
        return next(iter(found))

    def _check_same_format(self, place: str, fields: Fields) -> None:
        """With `auto`, a record of another format than the file's is an error: the file is mixed."""
        other = guess(fields) if self.source.format == "auto" else None
        if other and other != self.format:
            raise self._mixed({self.format: "at first", other: place})

    def _mixed(self, found: dict[str, str]) -> HeadwaterError:
        listed = ", ".join(f"{format} ({place})" for format, place in found.items())
        return HeadwaterError(
            f"the file mixes {len(found)} formats: {listed}",
            where=self.path,
            fix="write each into its own file, or set `format` to use one and skip the rest",
        )

    def _nothing(self, seen: int, first: Unread | None) -> HeadwaterError:
        if first is None:
            what = f"none of its {seen:,} records can be used" if seen else "the file holds no record"
            return HeadwaterError(what, where=self.path, fix="replace it, or remove it from the list")
        fix = "correct the file, or set `format`"
        if first.reason == "missing_column":
            fix = "name the file's own columns in `columns: {prompt: NAME, …}`, or set `format`"
        what = f"none of its {seen:,} records can be used; {first.position}: {first.reason}, {first.detail}"
        return HeadwaterError(what, where=self.path, fix=fix)


def _prompts(format: str, fields: Fields) -> list[tuple[Conversation, str | None]]:
    found = []
    for talk in talks_of(format, fields):
        answered = talk[-1]["role"] == "assistant"
        said, reference = (talk[:-1], talk[-1]["content"]) if answered else (talk, None)
        if not said or said[-1]["role"] != "user":
            raise BadRecord("no_prompt", "no message of the user before the answer")
        found.append((said, fields.text("reference") or reference))
    return found
