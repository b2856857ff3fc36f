"""Reader of folders of text, HTML, PDF, DOCX and EPUB files. Each file is one document."""

from __future__ import annotations

from collections.abc import Iterator

from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.sources.content import document_from_content
from headwater.data_pipeline.sources.items import Unread, UnreadableFile
from headwater.data_pipeline.sources.opening import decompressed, open_input, url_of
from headwater.data_pipeline.sources.proxy import proxy_of
from headwater.data_pipeline.sources.spec import FolderSource


def read_folder_file(source: FolderSource, path: str) -> Iterator[Document | Unread]:
    limit = source.max_document_bytes
    with open_input(path, source.max_download_bytes, source.allow_addresses, proxy_of(source)) as stream:
        try:
            content = decompressed(stream).read(limit + 1)
        except OSError as error:
            raise UnreadableFile("truncated", str(error), "byte 0") from error
    if not content.strip():
        raise UnreadableFile("empty_file", "the file is empty", "byte 0")
    yield document_from_content(content, path, _url(source, path), path, "", limit, source.ocr)


def _url(source: FolderSource, path: str) -> str:
    if source.base_url:
        for root in source.paths:
            if path.startswith(root.rstrip("/") + "/"):
                return source.base_url.rstrip("/") + path.removeprefix(root.rstrip("/"))
        return f"{source.base_url.rstrip('/')}/{path.rsplit('/', 1)[-1]}"
    return url_of(path)
