"""Incremental decoding of generated ids: complete characters only, up to a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

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
        self.finish_reason: Literal["stop", "length"] = "length"

    @property
    def tokens(self) -> int:
        """Number of tokens, with the ending one."""
        return len(self.ids)

    def read(self, ids: Iterable[tuple[int, float]]) -> Iterator[str]:
        """Yield pieces of final text. `ids` are (token id, log-probability).

        Text that may be the start of a stop string is held back until that is decided.
        """
        held = ""
        for piece in self._characters(ids):
            held += piece
            places = [place for stop in self._stops if (place := held.find(stop)) >= 0]
            if places:
                self.finish_reason = "stop"
                held = held[: min(places)]
                break
            safe = len(held) - self._undecided(held)
            if safe:
                yield held[:safe]
                held = held[safe:]
        if held:
            yield held

    def _undecided(self, text: str) -> int:
        """Number of characters at the end that may begin a stop string."""
        for length in range(min(self._longest_stop - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0

    def _characters(self, ids: Iterable[tuple[int, float]]) -> Iterator[str]:
        """Decode tokens as soon as the bytes of a character are complete."""
        pending: list[int] = []
        for token, _ in ids:
            self.ids.append(token)
            if token in self._stop_ids:
                self.finish_reason = "stop"
                break
            pending.append(token)
            text = str(self._tokenizer.decode(pending, skip_special_tokens=True))
            if text.endswith(REPLACEMENT) and len(pending) < LONGEST_CHARACTER:
                continue
            pending = []
            if text:
                yield text
        if pending and (text := str(self._tokenizer.decode(pending, skip_special_tokens=True))):
            yield text
