"""`headwater promote`, `rollback` and `promoted`: which model of a recipe is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headwater.options import JsonOption, RecipeArgument, SetOption, console, open_recipe
from headwater.tables import print_json, show

if TYPE_CHECKING:
    from headwater.promotion import Promotion

WhyOption = Annotated[str, typer.Option(help="The reason, kept in the record.")]


def promote(
    recipe: RecipeArgument,
    set_: SetOption = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="STAGE/KEY", help="A finished model; default: the recipe's newest one."),
    ] = None,
    why: WhyOption = "",
) -> None:
    """Make a finished model the one that serve, export and k8s render take."""
    from headwater import pipeline, promotion
    from headwater.cluster.errors import HeadwaterError
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.store import Store

    opened = open_recipe(recipe, set_)
    session = Session(Store(opened.store), console=console)
    session.store.check_readable()
    if model is None:
        chosen = pipeline.newest_finished(opened, session)
    else:
        stage, slash, key = model.partition("/")
        if not slash:
            raise HeadwaterError("not of the form STAGE/KEY", where=model, fix="list them: headwater show")
        chosen = session.store.find(stage, key)
    index = None if opened.index is None else pipeline.finished(opened, session, "index")["index"]
    made = promotion.promote(
        session.store, opened.name, chosen, index, opened.serve.answer, kind="promote", why=why
    )
    _tell(made)


def rollback(
    recipe: RecipeArgument,
    set_: SetOption = None,
    to: Annotated[
        int | None, typer.Option(metavar="NUMBER", min=1, help="A promotion; default: the model before.")
    ] = None,
    why: WhyOption = "",
) -> None:
    """Serve the model again that was promoted before."""
    from headwater import promotion
    from headwater.cluster.storage.store import Store

    opened = open_recipe(recipe, set_)
    _tell(promotion.roll_back(Store(opened.store), opened.name, to, why))


def promoted(recipe: RecipeArgument, set_: SetOption = None, json: JsonOption = False) -> None:
    """Show which model of a recipe is served, and all that were promoted before."""
    from rich.markup import escape
    from rich.table import Table

    from headwater import promotion
    from headwater.cluster.storage.store import Store

    opened = open_recipe(recipe, set_)
    store = Store(opened.store)
    found = promotion.promotions(store, opened.name)
    if json:
        kept = [each.model_dump() for each in found]
        print_json({"store": store.location, "recipe": opened.name, "promotions": kept})
        return
    if not found:
        show(console, f"nothing was promoted for {opened.name}: its newest finished model is served")
        return
    table = Table(title=f"promotions of {opened.name} in {store.location}", title_justify="left")
    for column in ("", "model", "answers", "rankings", "by", "at", "how", "why"):
        table.add_column(column)
    for each in found:
        how = each.kind + (f" of {each.restores}" if each.restores else "")
        rankings = str(each.rankings.get("rankings", ""))
        served = f"[bold green]{each.number}[/]" if each is found[-1] else str(each.number)
        row = (each.model, each.answer, rankings, each.by, each.time, how, each.why)
        table.add_row(served, *map(escape, row))
    show(console, table)


def _tell(made: Promotion) -> None:
    console.print(f"[bold green]✓[/] {made.told()}", highlight=False, soft_wrap=True)
    told = "a running endpoint serves it after its next start; as one of `serve.models`, within seconds"
    console.print(f"  {told}", highlight=False)
