"""`headwater bias`: what a name alone changes in a model's answers, and what system prompts do about it."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from headwater.commands.models.given import ModelsArgument, models_of, recipe_among
from headwater.options import (
    AddressOption,
    GpusOption,
    JsonOption,
    MaxWorkersOption,
    SetOption,
    StoreOption,
    console,
    open_session,
)
from headwater.tables import show


def bias(
    models: ModelsArgument,
    pairs: Annotated[
        int, typer.Option(min=1, max=5, help="Pairs of names of each axis (sex, race, origin).")
    ] = 5,
    system: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="System prompt to measure instead of `careful` and `fair`; repeatable."
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Without system prompts.")] = False,
    as_json: JsonOption = False,
    gpus_per_worker: GpusOption = 0.0,
    set_: SetOption = None,
    store: StoreOption = "store",
    address: AddressOption = None,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Measure bias by ambiguous questions and by swapped names, without and with system prompts.

    Several models are measured beside each other: before and after. Rerun it to resume.
    """
    from headwater.cluster.extras import require

    require("train")
    from headwater.cluster.runtime.stage import execute
    from headwater.llm.examples.system_prompts import SYSTEM_PROMPTS
    from headwater.llm.probes.results import bias_rows
    from headwater.llm.stages.evaluations.bias import Bias, BiasConfig

    recipe = recipe_among(models, set_)
    own = {f"system {number}": text for number, text in enumerate(system or (), start=1)}
    systems = {} if plain else own or SYSTEM_PROMPTS
    stage = Bias(BiasConfig(pairs=pairs, system=systems, gpus_per_worker=gpus_per_worker))
    console.quiet = as_json
    place, run = (recipe.store, f"bias-{recipe.name}") if recipe else (store, "bias")
    with open_session(place, address, run, driver=True, max_workers=max_workers) as session:
        found = {
            label: execute(stage, {model.stage: model}, session)[0]
            for label, model in models_of(models, recipe, session).items()
        }
    metrics = {label: artifact.finished().metrics for label, artifact in found.items()}
    if as_json:
        places = {label: artifact.location for label, artifact in found.items()}
        typer.echo(json.dumps({"models": metrics, "artifacts": places}, indent=2))
        return
    columns, rows = bias_rows(metrics)
    first = next(iter(metrics.values()))
    table = Table(f"{first['questions']} questions, {first['pairs']} pairs", *map(escape, columns))
    for name, values in rows.items():
        table.add_row(name, *values)
    show(console, table)
    for label, artifact in found.items():
        console.print(f"  {escape(label)}: {artifact.location}", highlight=False, soft_wrap=True)
