"""Reads a source to its end, as a worker does, and separates documents from errors."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources import read_source
from headwater.data_pipeline.sources.items import Unread, UnreadableFile
from headwater.data_pipeline.sources.spec import Source

LOOPBACK = ["127.0.0.0/8"]


def source_of(kind: str, **settings: Any) -> Source:
    """A source that may reach this machine unless `allow_addresses` says otherwise."""
    loopback = {} if kind == "wheel" else {"allow_addresses": LOOPBACK}
    return TypeAdapter(Source).validate_python({"kind": kind} | loopback | settings)


def read_all(
    kind: str, path: str, **settings: Any
) -> tuple[list[Document], list[Unread], UnreadableFile | None]:
    """Documents, pieces that could not be read, and the error that ended the file, if one did."""
    documents: list[Document] = []
    unread: list[Unread] = []
    try:
        for item in read_source(source_of(kind, paths=[str(path)], **settings), str(path)):
            if isinstance(item, Document):
                documents.append(item)
            else:
                unread.append(item)
    except UnreadableFile as error:
        return documents, unread, error
    return documents, unread, None
