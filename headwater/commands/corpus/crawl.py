"""`headwater crawl`: fetch pages of the web into WARC files."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.options import AddressOption, console
from headwater.tables import show

if TYPE_CHECKING:
    from headwater.data_pipeline.sources.spec import CrawlSource


def crawl(
    seeds: Annotated[list[str], typer.Argument(metavar="SEEDS…", help="URLs to start from.")],
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the result; a path or s3://.")],
    contact: Annotated[
        str, typer.Option(help="Your e-mail address or a URL about you, sent with each request.")
    ],
    scope: Annotated[str, typer.Option(help="host, domain or prefix: which links are followed.")] = "host",
    max_pages: Annotated[int, typer.Option(help="Maximum number of pages.")] = 10_000,
    max_depth: Annotated[int | None, typer.Option(help="Maximum number of links from a seed.")] = None,
    delay: Annotated[float, typer.Option(help="Seconds between two requests to a host.")] = 1.0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another setting of the source `crawl`."),
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Visit all pages again, and store those that have changed.")
    ] = False,
    address: AddressOption = None,
    max_workers: Annotated[
        int | None,
        typer.Option(min=1, help="Ray workers that share the hosts; default: this process."),
    ] = None,
) -> None:
    """Crawl politely into warc/, with an index and a log of every URL. Rerun it to resume."""
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.artifact import Artifact
    from headwater.cluster.storage.store import Store
    from headwater.data_pipeline.crawl.run import crawl as crawl_pages

    given: dict[str, Any] = {"scope": scope, "max_pages": max_pages, "max_depth": max_depth}
    source = _source({"seeds": seeds, "contact": contact, "delay_seconds": delay} | given, set_ or [])
    store = Store(output)
    store.check_writable()
    with contextlib.ExitStack() as stack:
        stack.enter_context(store.locked())
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-logs-")))
        workers = 0 if max_workers is None and address is None else max_workers
        session = stack.enter_context(
            Session(store, console=console, address=address, logs_to=logs, max_workers=workers)
        )
        result = Artifact(output)
        counts = crawl_pages(source, result, result.path("frontier"), session, refresh=refresh)
    _tell(counts)
    console.print(
        f"[bold green]✓[/] {counts.get('page', 0):,} pages → {output}", highlight=False, soft_wrap=True
    )


def opt_outs(
    corpus: Annotated[str, typer.Argument(metavar="DIR", help="Output folder of `headwater clean`.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the rules (*.jsonl).")],
    contact: Annotated[
        str, typer.Option(help="Your e-mail address or a URL about you, sent with each request.")
    ],
    delay: Annotated[float, typer.Option(help="Seconds between two requests to a host.")] = 1.0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another setting of requests.")
    ] = None,
) -> None:
    """Fetch robots.txt, ai.txt and tdmrep.json of a corpus's sites, for `headwater clean --opt-outs`."""
    from headwater.cluster.errors import HeadwaterError
    from headwater.cluster.storage.artifact import Artifact
    from headwater.data_pipeline.corpus import read_documents
    from headwater.data_pipeline.crawl.rules_file import SUFFIX, fetch_rules

    cleaned = Artifact(corpus, "clean")
    if cleaned.manifest() is None:
        raise HeadwaterError("no cleaned corpus here", where=corpus, fix="pass a finished output")
    if output.suffix != SUFFIX:
        raise HeadwaterError("a file of rules ends in .jsonl", where=str(output), fix="rename it")
    given = {"contact": contact, "delay_seconds": delay, "seeds": ["https://example.org/"]}
    settings = _source(given, set_ or [])
    urls = (url for batch in read_documents(cleaned, ["url"]) for url in batch["url"].to_pylist())
    found = fetch_rules(urls, settings, output)
    console.print(
        f"[bold green]✓[/] rules of {found.origins - found.unreachable:,} sites → {output}; "
        f"{found.unreachable:,} could not be reached",
        highlight=False,
        soft_wrap=True,
    )


def _source(given: dict[str, Any], changes: list[str]) -> CrawlSource:
    import yaml
    from pydantic import ValidationError

    from headwater.cluster.errors import HeadwaterError
    from headwater.data_pipeline.sources.spec import CrawlSource

    for change in changes:
        key, sign, value = change.partition("=")
        if not sign:
            raise HeadwaterError(f"{change} is no KEY=VALUE", where="--set", fix="write KEY=VALUE")
        given[key.strip()] = yaml.safe_load(value)
    try:
        return CrawlSource.model_validate({"kind": "crawl"} | given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise HeadwaterError(
            f"{place}: {first['msg']}", where="headwater crawl", fix="docs/recipes.md lists the settings"
        ) from error


def _tell(counts: dict[str, int]) -> None:
    """A table of the numbers of URLs by outcome."""
    from rich.table import Table

    table = Table("outcome", "URLs")
    table.columns[1].justify = "right"
    for name, count in counts.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    show(console, table)
