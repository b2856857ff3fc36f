"""Keys and values of sequences that have left a batch, for prompts that begin as they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

SHARED_TOKENS = 16
"""A beginning that a prompt shares with another is copied from this length on."""


@dataclass(eq=False)
class Prefix:
    """The positions of one sequence."""

    ids: tuple[int, ...]
    version: int
    """Of the weights."""
    tensors: list[torch.Tensor]
    """As `Slots.kept` gives them: [heads, len(ids), width] of keys and values of each layer."""
    adapter: int = 0
    """Number of the adapter that read it; 0: none."""

    def __post_init__(self) -> None:
        self.start = self.ids[:SHARED_TOKENS]
        self.bytes = sum(tensor.nbytes for tensor in self.tensors)


class Prefixes:
    """At most `limit` bytes; the prefix unused for longest is forgotten first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: list[Prefix] = []  # the one used last at the end
        self.asked = self.found = 0
        """Tokens of all prompts, and those of them that were copied from here."""

    @property
    def bytes(self) -> int:
        return sum(prefix.bytes for prefix in self._held)

    def best(self, prompt: tuple[int, ...], version: int, adapter: int = 0) -> tuple[int, Prefix | None]:
        """Number of first ids of a prompt that one of the adapter has, and that one; 0 below
        SHARED_TOKENS."""
        self._held = [prefix for prefix in self._held if prefix.version == version]
        start = prompt[:SHARED_TOKENS]
        return max(
            (
                (common(prompt, prefix.ids), prefix)
                for prefix in self._held
                if prefix.start == start and prefix.adapter == adapter
            ),
            key=lambda each: each[0],
            default=(0, None),
        )

    def use(self, prefix: Prefix, length: int) -> None:
        """Say that `length` positions of one were copied."""
        self.found += length
        self._held.remove(prefix)
        self._held.append(prefix)

    def covers(self, ids: tuple[int, ...], version: int, adapter: int = 0) -> bool:
        """Whether nothing is gained by keeping these."""
        shared, prefix = self.best(ids, version, adapter)
        return len(ids) < SHARED_TOKENS or (prefix is not None and shared == len(ids))

    def keep(self, made: Prefix) -> None:
        """Take one, in place of those that it begins with."""
        self._held = [
            one for one in self._held if one.adapter != made.adapter or made.ids[: len(one.ids)] != one.ids
        ]
        self._held.append(made)
        while self.bytes > self.limit:
            self._held.pop(0)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of first ids that two prompts share."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:  # a[:low] == b[:low], a[:high] != b[:high]
        middle = (low + high) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle)
    return low
