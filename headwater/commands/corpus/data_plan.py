"""`headwater data plan`: what a recipe would fetch from Common Crawl, before it does."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from headwater.options import (
    AddressOption,
    JsonOption,
    MaxWorkersOption,
    RecipeArgument,
    SetOption,
    console,
    open_recipe,
    open_session,
)
from headwater.tables import print_json, show

CORE_HOUR_DOLLARS = 0.05
"""A core hour of a rented CPU machine (on demand some $0.045, us-east-1). Only an example: give your own."""


def plan(
    recipe: RecipeArgument,
    set_: SetOption = None,
    core_hour: Annotated[
        float, typer.Option(min=0, metavar="DOLLARS", help="Price of a core hour.")
    ] = CORE_HOUR_DOLLARS,
    address: AddressOption = None,
    max_workers: MaxWorkersOption = None,
    json: JsonOption = False,
) -> None:
    """Look a recipe's Common Crawl sources up: pages, bytes, requests, cost. A run then starts from there."""
    from headwater.cluster.errors import HeadwaterError
    from headwater.cluster.runtime.stage import locate
    from headwater.cluster.storage.store import Store
    from headwater.data_pipeline.acquire import Acquire

    opened = open_recipe(recipe, set_)
    sources = opened.acquire.sources if opened.acquire is not None else ()
    if not any(source.kind == "common_crawl" for source in sources):
        raise HeadwaterError(
            "the recipe has no source `kind: common_crawl`",
            where=str(recipe),
            fix="there is nothing to look up",
        )
    assert opened.acquire is not None
    stage, store = Acquire(opened.acquire), Store(opened.store)
    store.check_writable()
    workers = 0 if max_workers is None and address is None else max_workers
    with store.locked(), open_session(opened.store, address, opened.name, max_workers=workers) as session:
        chosen = stage.selections(locate(stage, {}, session), session)
    rows = [
        selection.summary(core_hour) | {"source": f"acquire.sources.{number}"}
        for number, selection in chosen.items()
    ]
    if json:
        print_json({"sources": rows, "dollars_per_core_hour": core_hour})
        return
    table = Table("source", "pages", "MB to fetch", "requests", "files", "core hours to clean", "dollars")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row["source"],
            f"{row['pages']:,}",
            f"{row['fetched_bytes'] / 1e6:,.1f}",
            f"{row['requests']:,}",
            f"{row['files']:,}",
            f"{row['cleaning_core_hours']:,.2f}",
            f"{row['dollars']:,.2f}",
        )
    show(console, table)
    console.print(
        f"Dollars: cleaning at {core_hour:g} per core hour; fetching is free of charge, waiting for it not "
        "counted. The lookup is kept: `headwater run` goes on from it.",
        highlight=False,
        soft_wrap=True,
    )
