"""`headwater probe`: what models know of documents, and examples that teach them to say "I don't know"."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.artifact import Artifact
    from headwater.recipe import Recipe


def probe(
    models: ModelsArgument,
    questions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Own questions with right answers instead of the recipe's documents; half are held out.",
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=0, help="Questions from which examples are written.")] = 200,
    heldout: Annotated[int, typer.Option(min=1, help="Held-out questions, which are measured.")] = 200,
    samples: Annotated[int, typer.Option(min=2, help="Sampled answers to each question.")] = 5,
    system: Annotated[str, typer.Option(help="System prompt to ask with.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the questions and of the sampled answers.")] = 0,
    as_json: JsonOption = False,
    gpus_per_worker: GpusOption = 0.0,
    set_: SetOption = None,
    store: StoreOption = "store",
    address: AddressOption = None,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Ask models about documents without passages; write examples that teach "I don't know".

    Several models are asked the same questions: before and after. Rerun it to resume.
    """
    from headwater.cluster.errors import HeadwaterError
    from headwater.cluster.extras import require

    require("train")
    from headwater.cluster.runtime.stage import execute
    from headwater.llm.examples.own_data.source import DataSource
    from headwater.llm.probes.results import compared, knowledge_rows
    from headwater.llm.stages.evaluations.probe import (
        EXAMPLES,
        Facts,
        FactsConfig,
        Probe,
        ProbeConfig,
        read_asked,
    )

    recipe = recipe_among(models, set_)
    if not questions and (recipe is None or not recipe.clean):
        raise HeadwaterError(
            "there are no documents to ask about",
            where=models[0],
            fix="give a recipe with a section `clean`, or --questions FILE",
        )
    data = (DataSource(files=tuple(questions)),) if questions else None
    facts = Facts(FactsConfig(questions=count, heldout_questions=heldout, data=data, seed=seed))
    ask = Probe(ProbeConfig(samples=samples, system=system, seed=seed, gpus_per_worker=gpus_per_worker))
    console.quiet = as_json
    place, run = (recipe.store, f"probe-{recipe.name}") if recipe else (store, "probe")
    with open_session(place, address, run, driver=True, max_workers=max_workers) as session:
        asked_of = models_of(models, recipe, session)
        made, _ = execute(facts, {} if questions else _documents(recipe, session), session)
        found = {
            label: execute(ask, {"facts": made, model.stage: model}, session)[0]
            for label, model in asked_of.items()
        }
    answers = {label: read_asked(artifact) for label, artifact in found.items()}
    first = next(iter(found.values()))
    if as_json:
        measured = {
            label: {name: asdict(each) for name, each in one.items() if each.count}
            | {"states": found[label].finished().metrics["heldout"]["states"]}
            for label, one in compared(answers).items()
        }
        told = {"questions": made.location, "made": made.finished().metrics, "models": measured}
        places = {label: artifact.location for label, artifact in found.items()}
        told |= {
            "artifacts": places,
            "examples": {label: each.path(EXAMPLES) for label, each in found.items()},
        }
        typer.echo(json.dumps(told, indent=2))
        return
    asked = len(next(iter(answers.values())))
    table = Table(f"{asked:,} held-out questions", *map(escape, found))
    for name, values in knowledge_rows(answers).items():
        table.add_row(escape(name), *values)
    show(console, table)
    counts = first.finished().metrics["examples"]
    told_of = ", ".join(f"{counts.get(state, 0):,} {state}" for state in ("known", "unknown"))
    console.print(
        f"examples for `sft.data` ({told_of}): {first.path(EXAMPLES)}", highlight=False, soft_wrap=True
    )


def _documents(recipe: Recipe | None, session: Session) -> dict[str, Artifact]:
    """The recipe's cleaned documents, and its base model, which writes questions."""
    from headwater import pipeline

    assert recipe is not None, "checked: without questions there is one"
    clean = pipeline.finished(recipe, session, "clean")["clean"]
    base = pipeline.finished(recipe, session, "base")["base"] if recipe.base else None
    return {"clean": clean} | ({"base": base} if base else {})
