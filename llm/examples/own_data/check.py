"""What own files would be trained on: examples with the learnt text marked, lengths, what is dropped."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from headwater.data_pipeline.sources.items import Unread
from headwater.llm.examples.chat import PromptTooLong, encode_conversation, encode_prompt
from headwater.llm.examples.conversations import Conversation
from headwater.llm.examples.own_data.reading import OwnFile, Prompt, split_of_record
from headwater.llm.examples.own_data.source import DataSource
from headwater.llm.examples.preferences import LeftOut, Preference, encode_pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Purpose = Literal["sft", "reward", "rl"]
Piece = tuple[str, bool]
"""Text, and whether it is learnt."""


@dataclass
class Shown:
    """One example as it would be trained on."""

    where: str
    parts: dict[str, list[Piece]]
    """`conversation`; `chosen` and `rejected`; or `prompt` and `reference`."""


@dataclass
class FileCheck:
    """What was found in one file."""

    format: str = ""
    used: int = 0
    heldout: int = 0
    shortened: int = 0
    lengths: list[int] = field(default_factory=list)
    """Tokens of each example before it is shortened (of a pair's longer side); without a tokenizer, words."""
    learnt: list[int] = field(default_factory=list)
    """Learnt tokens of each example, after it was shortened."""
    shown: list[Shown] = field(default_factory=list)
    skipped: collections.Counter[str] = field(default_factory=collections.Counter)
    problems: list[Unread] = field(default_factory=list)


@dataclass
class _Fitted:
    """A conversation or prompt within the length limit."""

    pieces: list[Piece]
    length: int
    learnt: int
    shortened: bool


class Checker:
    """Checks files for one purpose. Without a tokenizer, lengths are words and nothing is shortened."""

    def __init__(
        self, purpose: Purpose, tokenizer: PreTrainedTokenizerFast | None, max_length: int, show: int = 3
    ) -> None:
        self.purpose, self.tokenizer, self.max_length = purpose, tokenizer, max_length
        self.left_to_show = show

    def __call__(self, source: DataSource, path: str) -> FileCheck:
        """Raises HeadwaterError as `reading.conversations` does."""
        found, opened = FileCheck(), OwnFile(source, path)
        read: dict[Purpose, Callable[[], Iterator[tuple[str, Any]]]] = {
            "sft": opened.conversations,
            "reward": opened.preferences,
            "rl": opened.prompts,
        }
        for where, value in read[self.purpose]():
            problem = value if isinstance(value, Unread) else self._add(found, opened, where, value)
            if problem:
                found.skipped[problem.reason] += 1
                found.problems.append(problem)
        found.format = opened.format
        return found

    def _add(self, found: FileCheck, opened: OwnFile, where: str, value: Any) -> Unread | None:
        try:
            fitted = self._fitted(value)
        except LeftOut as why:
            return opened.problem(where, why.reason, why.detail)
        sides = list(fitted.values())
        found.used += 1
        found.heldout += self.purpose != "rl" and split_of_record(where) == "heldout"
        found.shortened += any(side.shortened for side in sides)
        found.lengths.append(max(side.length for side in sides))
        found.learnt.append(max(side.learnt for side in sides))
        if self.left_to_show:
            self.left_to_show -= 1
            parts = {name: side.pieces for name, side in fitted.items()}
            if isinstance(value, Prompt) and value.reference is not None:
                parts["reference"] = [(value.reference, False)]
            found.shown.append(Shown(where, parts))
        return None

    def _fitted(self, value: Any) -> dict[str, _Fitted]:
        """The parts of an example, by name. Raises LeftOut if it cannot be used within the limit."""
        if isinstance(value, Preference):
            if self.tokenizer is not None:
                return self._fit_pair(self.tokenizer, value)
            sides = {"chosen": value.chosen, "rejected": value.rejected}
            return {
                name: self._fit([*value.prompt, {"role": "assistant", "content": answer}])
                for name, answer in sides.items()
            }
        if isinstance(value, Prompt):
            return {"prompt": self._fit(value.messages)}
        return {"conversation": self._fit(value)}

    def _fit_pair(self, tokenizer: PreTrainedTokenizerFast, pair: Preference) -> dict[str, _Fitted]:
        encoded = encode_pair(tokenizer, pair, self.max_length)
        prompt, whole = encoded["prompt"], len(encode_prompt(tokenizer, pair.prompt))
        return {
            side: _Fitted(
                self._pieces(prompt + encoded[side], [0] * len(prompt) + [1] * len(encoded[side])),
                whole + len(encoded[side]),
                len(encoded[side]),
                len(prompt) < whole,
            )
            for side in ("chosen", "rejected")
        }

    def _fit(self, messages: Conversation) -> _Fitted:
        is_prompt = messages[-1]["role"] == "user" and self.purpose == "rl"
        if self.tokenizer is None:
            pieces = [(f"{m['role']}: {m['content'].strip()}\n", m["role"] == "assistant") for m in messages]
            words = [(len(m["content"].split()), m["role"] == "assistant") for m in messages]
            learnt = sum(count for count, is_learnt in words if is_learnt)
            return _Fitted(pieces, sum(count for count, _ in words), learnt, False)
        if is_prompt:
            return self._fit_prompt(self.tokenizer, messages)
        ids, mask = encode_conversation(self.tokenizer, messages)
        length, shortened = len(ids), len(ids) > self.max_length
        if shortened:
            ids, mask = encode_conversation(self.tokenizer, messages, self.max_length)
        if not any(mask):
            raise self._too_long()
        return _Fitted(self._pieces(ids, mask), length, sum(mask), shortened)

    def _fit_prompt(self, tokenizer: PreTrainedTokenizerFast, messages: Conversation) -> _Fitted:
        ids = encode_prompt(tokenizer, messages)
        length, shortened = len(ids), len(ids) > self.max_length
        if shortened:
            try:
                ids = encode_prompt(tokenizer, messages, self.max_length)
            except PromptTooLong as error:
                raise self._too_long() from error
        return _Fitted(self._pieces(ids, [0] * len(ids)), length, 0, shortened)

    def _too_long(self) -> LeftOut:
        return LeftOut("too_long", f"nothing to learn within `max_length` {self.max_length}")

    def _pieces(self, ids: Sequence[int], mask: Sequence[int]) -> list[Piece]:
        if not self.left_to_show:
            return []
        assert self.tokenizer is not None
        runs = itertools.groupby(zip(ids, mask, strict=True), key=lambda pair: bool(pair[1]))
        return [(str(self.tokenizer.decode([i for i, _ in run])), learnt) for learnt, run in runs]


def quantiles(lengths: Sequence[int]) -> tuple[int, int, int, int]:
    """Minimum, median, 95th percentile and maximum."""
    found = np.percentile(lengths, [0, 50, 95, 100], method="nearest")
    least, median, high, most = (int(value) for value in found)
    return least, median, high, most
