"""Items that readers yield: a Document, or an Unread for an unreadable piece of input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from headwater.data_pipeline.documents import Document, document_id
from headwater.data_pipeline.sources.spec import Columns

FIELDS = ("url", "title", "id", "fetched_at", "licence")
"""Parts of a document that a table may have besides its text."""
UTF8_BOM = b"\xef\xbb\xbf"

UNREAD_SCHEMA = pa.schema(
    [("file", pa.string()), ("position", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
)


@dataclass(slots=True)
class Unread:
    """An unreadable piece of input: file, position in it (record, line, row) and reason."""

    file: str
    position: str
    reason: str
    detail: str = ""
    records: int = 1
    """How many records it stands for."""


class UnreadableFile(Exception):
    """A file that cannot be opened or read to its end. `reason` is a code such as `not_found`."""

    def __init__(self, reason: str, detail: str, position: str = "") -> None:
        super().__init__(reason, detail, position)
        self.reason, self.detail, self.position = reason, detail, position


def document_from_row(
    row: Mapping[str, Any], columns: Columns, file: str, position: str, limit: int
) -> Document | Unread:
    """Convert one table row to a document, or to an Unread with the problem."""
    text, html = row.get(columns.text), row.get(columns.html)
    if text is not None and not isinstance(text, str):
        return Unread(file, position, "not_text", f"{columns.text} is of type {type(text).__name__}")
    if isinstance(html, str):  # the byte order mark marks the bytes as UTF-8, whatever the page declares
        html = UTF8_BOM + html.encode("utf-8", "surrogatepass")
    if not isinstance(html, bytes | None):
        return Unread(file, position, "not_text", f"{columns.html} is of type {type(html).__name__}")
    if not (text and text.strip()) and not html:
        missing = columns.text not in row and columns.html not in row
        detail = f"neither {columns.text} nor {columns.html}" if missing else "the text is empty"
        return Unread(file, position, "no_text", detail)
    text = text or ""
    if len(text) > limit or len(html or b"") > limit:
        return Unread(file, position, "too_large", f"more than {limit:,} bytes")
    fields = {name: _string(row.get(getattr(columns, name))) for name in FIELDS}
    for name, value in (("text", text), *fields.items()):
        if not encodable(value):
            return Unread(file, position, "invalid_utf8", f"{name} holds bytes that are not UTF-8")
    if len(text) * 4 > limit and len(text.encode()) > limit:
        return Unread(file, position, "too_large", f"more than {limit:,} bytes")
    metadata = _metadata(row, columns.metadata)
    if metadata is not None and len(metadata) > limit:
        return Unread(file, position, "too_large", f"more than {limit:,} bytes of metadata")
    identity = fields["id"] or document_id(fields["url"], text or html or b"")
    return Document(
        id=identity,
        url=fields["url"],
        title=fields["title"],
        text=text,
        html=None if text.strip() else html,
        source=f"{file}:{position}",
        fetched_at=fields["fetched_at"],
        licence=fields["licence"],
        metadata=metadata,
    )


def _metadata(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The row's values of these columns as a JSON object (ASCII, sorted keys); those that are null are left
    out. Numbers that JSON does not have, dates and the like become text."""
    if not names:
        return None
    found = {name: row[name] for name in names if row.get(name) is not None}
    try:
        return json.dumps(found, sort_keys=True, default=str, allow_nan=False)
    except (ValueError, TypeError):  # nan, infinity, keys that are no strings
        return json.dumps({name: str(value) for name, value in found.items()}, sort_keys=True)


def _string(value: object) -> str:
    return "" if value is None else str(value)


def encodable(text: str) -> bool:
    """False for lone surrogates: escaped bytes that are not UTF-8, or a JSON escape of half a character."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
