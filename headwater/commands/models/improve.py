"""`headwater improve`: learn from new rankings, and serve the result if it is better."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from headwater.options import (
    AddressOption,
    JsonOption,
    MaxWorkersOption,
    RecipeArgument,
    SetOption,
    open_recipe,
    open_session,
)
from headwater.tables import print_json

if TYPE_CHECKING:
    from rich.console import Console

    from headwater.improve import Outcome

MARKS = {True: "[green]✓[/]", False: "[red]✗[/]"}


def improve(
    recipe: RecipeArgument,
    set_: SetOption = None,
    address: AddressOption = None,
    max_workers: MaxWorkersOption = None,
    json: JsonOption = False,
) -> None:
    """Train on new rankings; promote the model if it passes the gate, else say why not and exit with 1."""
    from headwater.improve import improve as attempt

    opened = open_recipe(recipe, set_)
    run = f"{opened.name}-improve"
    with open_session(opened.store, address, run, driver=True, max_workers=max_workers) as session:
        if json:
            session.console.quiet = True
        outcome = attempt(opened, session)
        session.console.quiet = False
        if not json:
            _show(session.console, outcome, opened.improve.min_rankings)
    if json:
        kept = asdict(outcome) | {"reasons": outcome.reasons}
        print_json(kept | {"promotion": outcome.promotion and outcome.promotion.model_dump()})
    if outcome.verdict == "refused":
        raise typer.Exit(1)


def _show(out: Console, outcome: Outcome, needed: int) -> None:
    lines = [f"{MARKS[each.passed]} {escape(each.name)}: {escape(each.told)}" for each in outcome.findings]
    if outcome.verdict == "waiting":
        lines.append(
            f"{outcome.new:,} new rankings: too few to learn from (improve.min_rankings: {needed:,})"
        )
    elif outcome.promotion is not None:
        lines.append(f"[bold green]promoted[/] {escape(outcome.promotion.told())}")
    else:
        model = f" {outcome.model}" if outcome.model else ""
        lines.append(f"[bold red]refused[/]{model}: {escape('; '.join(outcome.reasons))}")
    if outcome.set_aside:
        lines.append(f"{outcome.set_aside:,} rankings were set aside: headwater rankings restore")
    for line in lines:
        out.print(line, highlight=False, soft_wrap=True)
