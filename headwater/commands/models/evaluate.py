"""`headwater evaluate`: a model's accuracies on public benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from headwater.commands.models.given import copied_model
from headwater.options import (
    AddressOption,
    GpusOption,
    JsonOption,
    MaxWorkersOption,
    SetOption,
    StoreOption,
    console,
    open_recipe,
    open_session,
)

if TYPE_CHECKING:
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.artifact import Artifact
    from headwater.llm.stages.evaluations.benchmarks import BenchmarksConfig
    from headwater.recipe import Recipe


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RECIPE",
            help="Model folder or .gguf file (a path, s3://, hf://), or a recipe, for its newest model.",
        ),
    ],
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Benchmarks, separated by commas; default: all but mmlu, gsm8k_cot_zeroshot, humaneval."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first questions of each benchmark (or MMLU subject).")
    ] = None,
    shots: Annotated[
        str,
        typer.Option(
            metavar="N|core",
            help="Solved questions before each question; core: for each benchmark as many as CORE has.",
        ),
    ] = "0",
    as_json: JsonOption = False,
    gpus_per_worker: GpusOption = 0.0,
    set_: SetOption = None,
    store: StoreOption = "store",
    address: AddressOption = None,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Measure a model on public benchmarks, as lm-eval does. Rerun it to resume."""
    from headwater.cluster.extras import require

    require("train")
    from headwater.cluster.runtime.stage import execute
    from headwater.llm.benchmarks.records import wheels
    from headwater.llm.benchmarks.results import table
    from headwater.llm.stages.evaluations.benchmarks import Benchmarks
    from headwater.recipe import is_recipe

    config = _config(tasks, limit, shots, gpus_per_worker)
    recipe = open_recipe(Path(model), set_) if is_recipe(model) else None
    console.quiet = as_json
    run = f"evaluate-{recipe.name}" if recipe else "evaluate"
    place = recipe.store if recipe else store
    with open_session(place, address, run, driver=True, max_workers=max_workers) as session:
        wheels(session.store, config.tasks)  # before a model is copied
        inputs = _of_recipe(recipe, session) if recipe else {"base": copied_model(model, session)}
        artifact, _ = execute(Benchmarks(config), inputs, session)
    manifest = artifact.finished()
    if as_json:
        told = {"model": model, "artifact": artifact.location, "config": manifest.config}
        typer.echo(json.dumps(told | manifest.metrics | {"wall_seconds": manifest.seconds}, indent=2))
        return
    columns, rows = table(manifest.metrics)
    shown = Table("benchmark, measure", *columns, title=escape(model), title_justify="left")
    for name, values in rows.items():
        shown.add_row(name, *values)
    console.print(shown)
    console.print(
        f"{_cost(manifest.metrics['models'])}\n  {artifact.location}", highlight=False, soft_wrap=True
    )


def _config(tasks: str | None, limit: int | None, shots: str, gpus: float) -> BenchmarksConfig:
    from headwater.cluster.errors import HeadwaterError
    from headwater.llm.benchmarks.examples import Shots, check_shots
    from headwater.llm.benchmarks.tasks import DEFAULT, TASKS, check_names
    from headwater.llm.stages.evaluations.benchmarks import BenchmarksConfig

    if shots != "core" and not shots.isdecimal():
        raise HeadwaterError(f"{shots!r} is neither a number nor `core`", where="--shots")
    wanted: Shots = "core" if shots == "core" else int(shots)
    if tasks is not None:
        names = tuple(name.strip() for name in tasks.split(","))
    elif wanted == "core":
        names = tuple(name for name in DEFAULT if TASKS[name].core)
    else:
        names = tuple(name for name in DEFAULT if TASKS[name].takes_examples or not wanted)
    try:
        check_names(names)
        check_shots(names, wanted)
    except ValueError as error:
        raise HeadwaterError(str(error), where="--tasks") from error
    return BenchmarksConfig(tasks=names, limit=limit, shots=wanted, gpus_per_worker=gpus)


def _of_recipe(recipe: Recipe, session: Session) -> dict[str, Artifact]:
    """The recipe's newest model, and its cleaned documents if there are any."""
    from headwater import pipeline
    from headwater.llm.stages.evaluations.benchmarks import CORPUS

    newest = pipeline.newest_finished(recipe, session)
    corpus = pipeline.finished(recipe, session, CORPUS) if recipe.clean else {}
    return {newest.stage: newest} | {name: corpus[name] for name in corpus if name == CORPUS}


def _cost(models: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    measured = [one for outcomes in models.values() for one in outcomes.values() if "tokens" in one]
    seconds, tokens, shortened = (
        sum(one[key] for one in measured) for key in ("seconds", "tokens", "shortened")
    )
    cut = f", {shortened:,} contexts cut to fit into the model's" if shortened else ""
    return f"{tokens:,} tokens in {seconds:,.0f} worker-seconds{cut}"
