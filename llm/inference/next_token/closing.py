"""The shortest end of an unfinished JSON text under a grammar.

The grammar is a matcher of llguidance over single bytes, so every state costs microseconds. The search is A*
over bytes (Hart, Nilsson & Raphael 1968) with the number of open brackets and quotes as the bound.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Any, NamedTuple

import numpy as np

QUOTE, ESCAPE, COMMA, COLON = b'"\\,:'
OPEN, CLOSE = frozenset(b"{["), frozenset(b"}]")
BYTES = 256
MOST_STATES = 2000
"""States that a search visits before it gives up: some 60 ms."""
DIGITS = b"0987654321"
"""In the order in which they are tried: 0 is the plainest number, 9 the one that reaches a minimum first."""
FEW = 16
"""Up to so many bytes that may follow within quotes are all tried; of more, one."""


class Place(NamedTuple):
    """Where in a JSON text one is."""

    counts: tuple[int, ...] = ()
    """Commas so far in each open array or object, the outermost first."""
    quoted: bool = False
    escaped: bool = False
    run: int = 0
    """Bytes of the string, number or word that one is in."""

    @property
    def open(self) -> int:
        """Bytes that must follow at least."""
        return len(self.counts) + self.quoted

    def after(self, text: bytes) -> Place:
        counts, quoted, escaped, run = self
        for byte in text:
            run += 1
            if quoted:
                if not escaped and byte == QUOTE:
                    quoted, run = False, 0
                escaped = not escaped and byte == ESCAPE
            elif byte == QUOTE:
                quoted, run = True, 0
            elif byte in OPEN:
                counts, run = (*counts, 0), 0
            elif byte in CLOSE:
                counts, run = counts[:-1], 0
            elif byte == COMMA:
                counts, run = (*counts[:-1], counts[-1] + 1), 0
            elif byte == COLON:
                run = 0
        return Place(counts, quoted, escaped, run)


def shortest_end(matcher: Any, place: Place) -> bytes | None:
    """The bytes that complete the text which `matcher` (llguidance's, over bytes) has read up to `place`.

    None if no end was found. States that look alike count as one, so the end may be longer than the shortest,
    never wrong.
    """
    number = itertools.count()
    queue = [(place.open, next(number), b"", place, matcher.deep_copy())]
    seen = set()
    for _ in range(MOST_STATES):
        if not queue:
            return None
        _, _, text, place, state = heapq.heappop(queue)
        if forced := state.compute_ff_bytes():
            state.consume_tokens(list(forced))
            text, place = text + forced, place.after(forced)
            bound = len(text) + place.open
            if queue and bound > queue[0][0]:  # another text may be shorter
                heapq.heappush(queue, (bound, next(number), text, place, state))
                continue
        if state.is_accepting():
            return text
        mask = state.compute_bitmask()
        if state.is_error() or (place, mask) in seen:
            continue
        seen.add((place, mask))
        for byte in _worth_trying(mask, place):
            after = state.deep_copy()
            if after.consume_token(byte):
                then = place.after(bytes([byte]))
                longer = text + bytes([byte])
                heapq.heappush(queue, (len(longer) + then.open, next(number), longer, then, after))
    return None


def _worth_trying(mask: bytes, place: Place) -> list[int]:
    """Bytes that may follow, without those that only make the text longer."""
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[:BYTES]
    allowed = [int(byte) for byte in np.flatnonzero(bits)]
    ends = [QUOTE] if place.quoted and not place.escaped else sorted(CLOSE)
    if found := [byte for byte in ends if byte in allowed]:
        return found
    if len(allowed) <= FEW or not place.quoted:
        return sorted(allowed, key=DIGITS.find)
    return [next((byte for byte in allowed if chr(byte).isalnum()), allowed[0])]
