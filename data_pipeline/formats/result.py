"""What a converter returns or raises."""

from __future__ import annotations

from typing import NamedTuple


class Converted(NamedTuple):
    """Title (may be empty) and plain text of a document; its own URL and date (ISO 8601), if it states
    them."""

    title: str
    text: str
    url: str = ""
    date: str = ""


class Unconvertible(Exception):
    """A document without text that can be read. `reason` is a code such as `no_text_layer`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail
