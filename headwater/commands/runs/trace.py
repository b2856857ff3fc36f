"""`headwater trace`: the documents a training step read, and the steps that read a document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from headwater.options import SetOption, StoreOption, console

if TYPE_CHECKING:
    from headwater.cluster.runtime.stage import Stage
    from headwater.cluster.storage.artifact import Artifact
    from headwater.cluster.storage.store import Store
    from headwater.llm.stages.trace import Part, Reading
    from headwater.recipe import Recipe

app = typer.Typer(
    help="List the documents a training step read, or the steps that read a document.", no_args_is_help=True
)

RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", help="Trace the run of this recipe, finished or not.")
]
ArtifactOption = Annotated[
    str | None,
    typer.Option("--artifact", metavar="STAGE/KEY", help="Finished artifact; a prefix of the key suffices."),
]
StageOption = Annotated[str, typer.Option(help="pretrain, sft, dpo, reward or rl.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


@dataclass(frozen=True)
class TrainedStage:
    """A training stage with its settings and artifacts. The output may be unfinished or missing."""

    store: Store
    stage: Stage[Any]
    inputs: Mapping[str, Artifact]
    output: Artifact
    corpus: Artifact
    """The cleaned documents it was trained on."""

    def reading(self) -> Reading:
        from headwater.llm.stages.trace import reading

        return reading(self.stage.name, self.stage.config, self.inputs, self.output)

    def runs(self) -> list[tuple[TrainedStage, range]]:
        """The runs that made its steps, with these: those it goes on from (`start_from`), then itself."""
        from headwater.llm.stages.pretrain import PretrainConfig, first_step

        config, parent = self.stage.config, self.inputs.get("pretrain")
        if not isinstance(config, PretrainConfig) or parent is None:
            return [(self, range(config.steps))]
        earlier = _of_artifact(self.store, parent.stage, parent.key)
        first = first_step(config, earlier.stage.config)
        before = [(run, range(steps.start, min(steps.stop, first))) for run, steps in earlier.runs()]
        return [*(each for each in before if each[1]), (self, range(first, config.steps))]


@app.command("step")
def trace_step(
    step: Annotated[int, typer.Argument(metavar="K", help="Step number, from 0.")],
    recipe: RecipeOption = None,
    set_: SetOption = None,
    artifact: ArtifactOption = None,
    stage: StageOption = "pretrain",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """List the documents of one step: URL, id, shard, row and position in the row."""
    from headwater.llm.stages.trace import check_step

    trained = _open(recipe, set_, artifact, stage, store)
    check_step(step, trained.stage.config.steps)
    made = next(run for run, steps in trained.runs() if step in steps)
    parts = made.reading().parts(step)
    known = _documents(made, parts)
    lines = [
        {
            "in batch": part.place,
            "row": part.where,
            "ids": part.span,
            "id": part.origin,
            "document": known.get(part.origin, {}).get("url") or part.origin,
        }
        for part in parts
    ]
    _show(lines, f"step {step} of {trained.output.location}", as_json)


@app.command("document")
def trace_document(
    document: Annotated[
        str,
        typer.Argument(metavar="URL-or-ID", help="A document, FILE:LINE of a conversation, or a ranking."),
    ],
    recipe: RecipeOption = None,
    set_: SetOption = None,
    artifact: ArtifactOption = None,
    stage: StageOption = "pretrain",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """List the steps that read a document, with epoch and row."""
    from headwater.data_pipeline.explain import explain

    trained = _open(recipe, set_, artifact, stage, store)
    fates = explain(trained.corpus, document)
    names = {fate.row["id"] for fate in fates if fate.kept} or {document}
    found = []
    for run, steps in trained.runs():
        visits = (visit for name in names for visit in run.reading().visits(name, steps.stop))
        found += sorted(each for each in visits if each[0].step in steps)
    if not found:
        raise _unread(document, fates, trained)
    lines = [
        {"step": visit.step, "epoch": visit.epoch, "in batch": visit.place, "row": where}
        for visit, where in found
    ]
    _show(lines, f"{document} in {trained.output.location}", as_json)


def _unread(document: str, fates: Iterable[Any], trained: TrainedStage) -> Exception:
    """The error for a document that no step reads, with the reason if the artifacts show it."""
    from headwater.cluster.errors import HeadwaterError
    from headwater.data_pipeline.explain import token_places
    from headwater.llm.stages.trace import is_held_out

    stage, kept = trained.stage.name, [fate for fate in fates if fate.kept]
    if stage not in ("pretrain", "rl") and is_held_out(trained.output, document):
        return HeadwaterError("it is held out", where=document, fix=f"no step of {stage} reads it")
    if not kept and (dropped := [fate for fate in fates if not fate.kept]):
        what = f"the document was dropped in cleaning: {dropped[0].row['step']}, {dropped[0].row['reason']}"
        return HeadwaterError(what, where=document, fix="for details run `headwater explain`")
    if not kept:
        return HeadwaterError(
            "no document has this id or URL", where=trained.corpus.location, fix="see `headwater trace step`"
        )
    if stage != "pretrain":
        what = f"no step of {stage} reads an example made from this document"
        return HeadwaterError(what, where=document, fix="it may be held out, or lack a usable title")
    places = token_places(trained.inputs["tokenize"], kept[0].row["id"])
    if places and {place.split for place in places} == {"validation"}:
        return HeadwaterError("it is held out for validation", where=document, fix="no step reads it")
    what = f"none of the run's {trained.stage.config.steps} steps reads this document"
    return HeadwaterError(what, where=document, fix="too few steps for all rows, or its corpus has weight 0")


def _open(
    recipe: Path | None, overrides: list[str] | None, artifact: str | None, stage: str, store: str
) -> TrainedStage:
    from headwater.cluster.errors import HeadwaterError
    from headwater.cluster.storage.store import Store
    from headwater.llm.stages.trace import check_stage
    from headwater.options import open_recipe

    check_stage(artifact.partition("/")[0] if artifact else stage)
    if recipe is not None and artifact is not None:
        raise HeadwaterError("both --recipe and --artifact are given", fix="give only one of them")
    if recipe is not None:
        return _of_recipe(open_recipe(recipe, overrides), stage)
    opened = Store(store)
    if artifact is not None:
        name, _, key = artifact.partition("/")
        return _of_artifact(opened, name, opened.find(name, key).key)
    keys = [manifest.key for manifest in opened.manifests() if manifest.stage == stage]
    if not keys:
        raise HeadwaterError(
            f"no finished {stage} artifact", where=opened.location, fix="for an unfinished run give --recipe"
        )
    return _of_artifact(opened, stage, keys[-1])


def _of_recipe(recipe: Recipe, stage: str) -> TrainedStage:
    """The stage as configured by the recipe. Raises HeadwaterError if an input is unfinished."""
    from headwater import pipeline
    from headwater.cluster.errors import HeadwaterError
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.store import Store

    with Session(Store(recipe.store), console=console) as session:
        found = pipeline.located(recipe, session, stage)
    made, output = found[stage]
    inputs = made.own_inputs({name: artifact for name, (_, artifact) in found.items()})
    for name, artifact in inputs.items():
        if artifact.manifest() is None:
            raise HeadwaterError(
                f"stage {name} has not finished, so the batches of {stage} are unknown",
                where=artifact.location,
                fix="run `headwater run` first, and repeat the --set options of that run here",
            )
    return TrainedStage(Store(recipe.store), made, inputs, output, found["clean"][1])


def _of_artifact(store: Store, stage: str, key: str) -> TrainedStage:
    """A finished stage, from the settings and inputs in its manifest."""
    from headwater import pipeline
    from headwater.cluster.errors import HeadwaterError

    made, inputs, output = pipeline.opened(store, stage, key)
    corpus = inputs.get("clean")
    for of_input in inputs.values():
        below = of_input.finished()
        if corpus is None and "clean" in below.inputs:
            corpus = store.artifact("clean", below.inputs["clean"])
    if corpus is None:
        raise HeadwaterError(f"{stage} was not trained on documents", where=output.location)
    return TrainedStage(store, made, inputs, output, corpus)


def _documents(trained: TrainedStage, parts: Iterable[Part]) -> dict[str, dict[str, Any]]:
    """The documents of these parts, by id. Reads only the corpus files named in the parts' rows."""
    from headwater.data_pipeline.explain import kept_documents

    parts = list(parts)
    files = None
    if trained.stage.name == "pretrain":
        files = {PurePosixPath(part.where.rsplit(" row ", 1)[0]).stem for part in parts}
    return kept_documents(trained.corpus, {part.origin for part in parts}, files)


def _show(lines: list[dict[str, Any]], title: str, as_json: bool) -> None:
    if as_json:
        for line in lines:
            console.print(json.dumps(line, ensure_ascii=False), highlight=False, markup=False, soft_wrap=True)
        return
    console.print(f"[bold]{escape(title)}[/]", highlight=False, soft_wrap=True)
    used = [name for name in lines[0] if any(line[name] != "" for line in lines)]
    if all(line.get("document") == line.get("id") for line in lines):
        used = [name for name in used if name != "document"]
    cells = [used, *([str(line[name]) for name in used] for line in lines)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(used))]
    for number, row in enumerate(cells):  # not folded: one output line per row
        shown = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        style = "dim" if number == 0 else ""
        console.print(f"  {shown}", style=style, highlight=False, markup=False, soft_wrap=True)
