"""`headwater replay`: a finished rl stage, trained again from its journal and compared bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headwater.options import AddressOption, SetOption, StoreOption, console, open_recipe, open_session


def replay(
    target: Annotated[
        str,
        typer.Argument(
            metavar="rl/KEY|RECIPE",
            help="A finished artifact of rl (a prefix of its key suffices), or a recipe whose rl finished.",
        ),
    ],
    learners: Annotated[
        int | None,
        typer.Option(min=1, help="Train with so many learners, and compare within 1e-5."),
    ] = None,
    set_: SetOption = None,
    store: StoreOption = "store",
    address: AddressOption = None,
) -> None:
    """Train a finished rl stage again from its journal, without sampling, and compare all bits.

    Equal means: the weights and the figures of every step are those of the artifact. Otherwise the first
    difference is printed, and the exit code is 1. The artifact is not changed. Another number of
    learners adds up gradients in another order, so equal then means within 1e-5.
    """
    from headwater import pipeline
    from headwater.cluster.errors import HeadwaterError
    from headwater.cluster.extras import require
    from headwater.cluster.storage.store import Store
    from headwater.llm.stages.replay import WITHIN, through_ray
    from headwater.llm.stages.replay import replay as train_again
    from headwater.llm.stages.rl import Rl
    from headwater.recipe import is_recipe

    require("train")
    recipe = open_recipe(Path(target), set_) if is_recipe(target) else None
    opened = Store(recipe.store if recipe else store)
    opened.check_readable()
    stage, _, key = target.partition("/")
    if recipe is None and stage != Rl.name:
        raise HeadwaterError(
            f"{stage} has no journal: its steps follow from its settings and inputs",
            where=target,
            fix="give rl/KEY, or a recipe",
        )
    with open_session(opened.location, address, "replay") as session:
        found = pipeline.finished(recipe, session, Rl.name)[Rl.name] if recipe else opened.find(stage, key)
        made, inputs, finished = pipeline.opened(opened, Rl.name, found.key)
        again = opened.folder(f"replays/{found.key}")
        again.delete_folder("")
        try:
            apart = train_again(made.config, inputs, finished, again, through_ray(session), learners)
        finally:
            again.delete_folder("")
    name = f"{Rl.name}/{found.key}"
    if apart is not None:
        console.print(f"[bold red]differs[/] {name}: {apart}", highlight=False, soft_wrap=True)
        raise typer.Exit(1)
    steps = made.config.steps
    same = "the same bits" if learners is None else f"the same with {learners} learners, within {WITHIN:g}"
    told = f"{name}: the weights, and the figures of all {steps} steps, are {same}"
    console.print(f"[bold green]equal[/] {told}", highlight=False, soft_wrap=True)
