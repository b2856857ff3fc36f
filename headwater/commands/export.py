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
        typer.Argument(metavar="RECIPE|STAGE/KEY", help="A recipe file, or an artifact of a training stage."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="Where to; s3:// too.")],
    format_: Annotated[str, typer.Option("--format", help="hf (a folder) or gguf (a file).")] = "gguf",
    precision: Annotated[
        str | None,
        typer.Option(help="f32, f16, bf16, or q8_0 for gguf; as trained unless given."),
    ] = None,
    stage: Annotated[str, typer.Option(help="Whose model, of a recipe.")] = "rl",
    set_: SetOption = None,
    store: StoreOption = "store",
) -> None:
    """Write a trained model for other programs: transformers, vLLM and lm-eval open the folder, llama.cpp,
    Ollama and LM Studio the GGUF file."""
    from headwater.llm.model.export import export as write

    model = _of_recipe(Path(source), set_, stage) if _is_recipe(source) else _artifact(store, source)
    with console.status(f"exporting {model.location}"):
        where = write(model, output, format_, precision)
    console.print(f"[bold green]✓[/] {where}", highlight=False, soft_wrap=True)


def _is_recipe(source: str) -> bool:
    return source.endswith((".yaml", ".yml"))


def _artifact(store: str, source: str) -> Artifact:
    from headwater.cluster.errors import HeadwaterError
    from headwater.cluster.storage.store import Store

    stage, slash, key = source.partition("/")
    if not slash:
        raise HeadwaterError(
            "neither a recipe file nor STAGE/KEY", where=source, fix="such as recipes/quickstart.yaml, rl/3f"
        )
    return Store(store).find(stage, key)


def _of_recipe(path: Path, overrides: list[str] | None, stage: str) -> Artifact:
    from headwater import pipeline
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.store import Store
    from headwater.options import open_recipe

    recipe = open_recipe(path, overrides)
    with Session(Store(recipe.store), console=console) as session:
        return pipeline.finished(recipe, session, stage)[stage]
