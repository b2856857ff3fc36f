"""The Document: one row of every corpus table from acquisition to retrieval."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from urllib.parse import urlsplit

import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("title", pa.string()),
        ("text", pa.large_string()),
        ("html", pa.large_binary()),
        ("source", pa.string()),
        ("fetched_at", pa.string()),
        ("language", pa.string()),
        ("licence", pa.string()),
    ]
)

METADATA = pa.field("metadata", pa.string())
"""A column that tables of sources with `columns.metadata` have beside those of SCHEMA."""


@dataclass(slots=True)
class Document:
    """One document. `text` is plain text; `html` holds the page's bytes until `text` is extracted."""

    id: str
    url: str
    title: str
    text: str
    html: bytes | None = None
    source: str = ""
    """Where the document was read: file and position (record, line, row)."""
    fetched_at: str = ""
    """ISO 8601; empty if unknown."""
    language: str = ""
    licence: str = ""
    """What the page says of its licence: `cc-by-sa-4.0`, a URL, or empty."""
    metadata: str | None = None
    """Further columns of the source as a JSON object; None if none were asked for."""


def document_id(url: str, content: str | bytes) -> str:
    """Hash of URL and content (128 bits, hex), independent of the source file."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return hashlib.blake2b(url.encode("utf-8", "surrogatepass") + b"\0" + data, digest_size=16).hexdigest()


def host_of(url: str) -> str:
    """The host name of a URL in lower case; empty if it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def to_table(documents: list[Document]) -> pa.Table:
    """Table of SCHEMA, with the column METADATA if a document has metadata."""
    schema = SCHEMA.append(METADATA) if any(each.metadata is not None for each in documents) else SCHEMA
    return pa.Table.from_pylist([asdict(document) for document in documents], schema=schema)


def from_table(table: pa.Table) -> list[Document]:
    table = current(table)
    names = [field.name for field in fields(Document) if field.name in table.column_names]
    return [Document(**row) for row in table.select(names).to_pylist()]


def current(table: pa.Table) -> pa.Table:
    """The table with the columns that it was written without, by an earlier version."""
    if "licence" in table.column_names:
        return table
    return table.append_column(SCHEMA.field("licence"), pa.array([""] * table.num_rows, pa.string()))
