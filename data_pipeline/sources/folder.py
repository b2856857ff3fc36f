"""Reader of folders of text and HTML files. Each file is one document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headwater.data_pipeline.documents import Document, document_id
from headwater.data_pipeline.sources.items import Unread, UnreadableFile
from headwater.data_pipeline.sources.opening import REMOTE, is_url, open_input
from headwater.data_pipeline.sources.spec import FolderSource

HTML_SUFFIXES = (".html", ".htm", ".xhtml")
TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst")


def read_folder_file(source: FolderSource, path: str) -> Iterator[Document | Unread]:
    limit = source.max_document_bytes
    with open_input(path, source.max_download_bytes) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        yield Unread(path, "byte 0", "too_large", f"more than {limit:,} bytes")
        return
    if not content.strip():
        raise UnreadableFile("empty_file", "the file is empty", "byte 0")
    url = _url(source, path)
    html = path.lower().endswith(HTML_SUFFIXES) or content[:64].lstrip()[:14].lower().startswith(
        b"<!doctype html"
    )
    text = ""
    if not html:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            yield Unread(path, f"byte {error.start}", "invalid_utf8", str(error))
            return
    yield Document(
        id=document_id(url, content),
        url=url,
        title="",
        text=text,
        html=content if html else None,
        source=path,
    )


def _url(source: FolderSource, path: str) -> str:
    if source.base_url:
        for root in source.paths:
            if path.startswith(root.rstrip("/") + "/"):
                return source.base_url.rstrip("/") + path.removeprefix(root.rstrip("/"))
        return f"{source.base_url.rstrip('/')}/{path.rsplit('/', 1)[-1]}"
    return path if is_url(path) or path.startswith(REMOTE) else Path(path).absolute().as_uri()
