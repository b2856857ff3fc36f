"""`headwater export`: a trained model as a Hugging Face folder or a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.options import SetOption, StoreOption, console

if TYPE_CHECKING:
    from headwater.cluster.storage.artifact import Artifact


def export(
    source: Annotated[
        str,
        typer.Argument(metavar="RECIPE|STAGE/KEY", help="Recipe file, or artifact of a training stage."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="Output folder or s3://.")],
    format_: Annotated[str, typer.Option("--format", help="hf (folder) or gguf (file).")] = "gguf",
    precision: Annotated[
        str | None,
        typer.Option(help="f32, f16, bf16, or q8_0 (gguf only); default: as trained."),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            help="With a recipe: the stage whose model to export; default: the promoted one, else the newest."
        ),
    ] = None,
    set_: SetOption = None,
    store: StoreOption = "store",
) -> None:
    """Export a trained model for transformers, vLLM and lm-eval (hf), or llama.cpp and Ollama (gguf)."""
    from headwater.llm.model.files.export import export as write
    from headwater.recipe import is_recipe

    model = _of_recipe(Path(source), set_, stage) if is_recipe(source) else _artifact(store, source)
    with console.status(f"exporting {model.location}"):
        where = write(model, output, format_, precision)
    console.print(f"[bold green]✓[/] {where}", highlight=False, soft_wrap=True)


def _artifact(store: str, source: str) -> Artifact:
    from headwater.cluster.errors import HeadwaterError
    from headwater.cluster.storage.store import Store

    stage, slash, key = source.partition("/")
    if not slash:
        raise HeadwaterError(
            "neither a recipe file nor STAGE/KEY", where=source, fix="e.g. recipes/quickstart.yaml, rl/3f"
        )
    return Store(store).find(stage, key)


def _of_recipe(path: Path, overrides: list[str] | None, stage: str | None) -> Artifact:
    from headwater import pipeline
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.store import Store
    from headwater.options import open_recipe

    recipe = open_recipe(path, overrides)
    with Session(Store(recipe.store), console=console) as session:
        if stage is None:
            return pipeline.served_model(recipe, session)[0]
        return pipeline.finished(recipe, session, stage)[stage]
