"""What a filter says of a text that it does not keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rejection:
    """`score` is what was measured and `threshold` the limit it missed, where the rule has numbers."""

    reason: str
    score: float | None = None
    threshold: float | None = None
