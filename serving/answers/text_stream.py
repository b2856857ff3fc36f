"""Incremental decoding of generated ids: complete characters only, up to a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from headwater.llm.inference.base import Token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

REPLACEMENT = "\ufffd"
LONGEST_CHARACTER = 4
"""Bytes of UTF-8, and so the maximum number of byte-level tokens per character."""


class TextStream:
    """Decodes one answer. After `read`, `ids` are its tokens and `finish_reason` is why it ended."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, stop_ids: Sequence[int], stops: Sequence[str]
    ) -> None:
        self._tokenizer, self._stop_ids, self._stops = tokenizer, frozenset(stop_ids), stops
        self._longest_stop = max((len(stop) for stop in stops), default=1)
        self.ids: list[int] = []
        self._said: list[tuple[Token, int]] = []  # tokens with text, and the characters before each
        self._length: int | None = None  # of the text, where a stop string ended it
        self.finish_reason: Literal["stop", "length"] = "length"

    @property
    def tokens(self) -> int:
        """Number of tokens, with the ending one."""
        return len(self.ids)

    def said(self) -> list[Token]:
        """The tokens of the text since the last call; those behind a stop string are none of it."""
        taken, self._said = self._said, []
        return [token for token, start in taken if self._length is None or start < self._length]

    def read(self, tokens: Iterable[Token]) -> Iterator[str]:
        """Yield pieces of final text.

        Text that may be the start of a stop string is held back until that is decided.
        """
        held, sent = "", 0
        for piece in self._characters(tokens):
            held += piece
            places = [place for stop in self._stops if (place := held.find(stop)) >= 0]
            if places:
                self.finish_reason = "stop"
                held = held[: min(places)]
                self._length = sent + len(held)
                break
            safe = len(held) - self._undecided(held)
            if safe:
                yield held[:safe]
                held, sent = held[safe:], sent + safe
        if held:
            yield held

    def _undecided(self, text: str) -> int:
        """Number of characters at the end that may begin a stop string."""
        for length in range(min(self._longest_stop - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0

    def _characters(self, tokens: Iterable[Token]) -> Iterator[str]:
        """Decode tokens as soon as the bytes of a character are complete."""
        pending: list[int] = []
        length = 0
        for token in tokens:
            self.ids.append(token.id)
            if token.id in self._stop_ids:
                self.finish_reason = "stop"
                break
            self._said.append((token, length))
            pending.append(token.id)
            text = str(self._tokenizer.decode(pending, skip_special_tokens=True))
            if text.endswith(REPLACEMENT) and len(pending) < LONGEST_CHARACTER:
                continue
            pending = []
            length += len(text)
            if text:
                yield text
        if pending and (text := str(self._tokenizer.decode(pending, skip_special_tokens=True))):
            yield text
