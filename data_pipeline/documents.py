"""The Document: one row of every corpus table from acquisition to retrieval."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields

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
    ]
)


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


def document_id(url: str, content: str | bytes) -> str:
    """Hash of URL and content (128 bits, hex), independent of the source file."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return hashlib.blake2b(url.encode("utf-8", "surrogatepass") + b"\0" + data, digest_size=16).hexdigest()


def to_table(documents: list[Document]) -> pa.Table:
    return pa.Table.from_pylist([asdict(document) for document in documents], schema=SCHEMA)


def from_table(table: pa.Table) -> list[Document]:
    names = [field.name for field in fields(Document)]
    return [Document(**row) for row in table.select(names).to_pylist()]
