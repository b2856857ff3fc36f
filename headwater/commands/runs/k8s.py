"""`headwater k8s`: render a recipe as Kubernetes objects for `kubectl apply`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.cluster.errors import HeadwaterError
from headwater.options import RecipeArgument, SetOption, console, open_recipe

if TYPE_CHECKING:
    from headwater.kubernetes.kustomize import Manifest
    from headwater.pipeline import Servable
    from headwater.recipe import Recipe

SCREEN = Path("-")

app = typer.Typer(help="Run and serve a recipe on Kubernetes, through KubeRay.", no_args_is_help=True)


class Kind(StrEnum):
    job = "job"
    service = "service"


@app.callback()
def group() -> None:
    """Run and serve a recipe on Kubernetes, through KubeRay."""


@app.command()
def render(
    recipe: RecipeArgument,
    set_: SetOption = None,
    kind: Annotated[Kind, typer.Option(help="Run the recipe, or serve the result of its run.")] = Kind.job,
    overlay: Annotated[
        str,
        typer.Option(
            help="Shape of the cluster: a name in k8s/overlays, or your own folder; "
            "default: the smallest that holds the recipe."
        ),
    ] = "",
    name: Annotated[str, typer.Option(help="Name of the object; default: the recipe's.")] = "",
    namespace: Annotated[str, typer.Option(help="Namespace; default: the overlay's.")] = "",
    image: Annotated[str, typer.Option(help="Image of the pods; default: the overlay's.")] = "",
    gpu_image: Annotated[str, typer.Option(help="Image of the GPU pool; default: --image.")] = "",
    store_claim: Annotated[
        str, typer.Option(help="PersistentVolumeClaim for a store that is a folder; mounted at its path.")
    ] = "",
    keys: Annotated[
        str,
        typer.Option(
            "--keys-secret", help="Secret with the endpoint's API keys, one per line in its entry `keys`."
        ),
    ] = "headwater-api-keys",
    queue: Annotated[str, typer.Option(help="Kueue queue to submit the job to.")] = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; - writes to stdout.")] = Path(
        "-"
    ),
) -> None:
    """Write the RayJob or RayService of a recipe, for `kubectl apply -f`."""
    from headwater.kubernetes import render
    from headwater.kubernetes.kustomize import dump

    opened = open_recipe(recipe, set_)
    target = render.Target(
        name=render.object_name(name or opened.name),
        namespace=namespace,
        image=image,
        gpu_image=gpu_image,
        store_claim=store_claim,
        keys=keys,
        queue=queue,
    )
    render.check_reachable(opened, target)
    if kind is Kind.job:
        components = ["job", "queue"] if queue else ["job"]
        fill = functools.partial(render.render_job, opened, target=target)
    else:
        if queue:
            raise HeadwaterError("only jobs can wait in a queue", where="--queue", fix="remove it")
        components = ["service"]
        made = _made(opened)
        answering = opened.serve.model_copy(update={"answer": made.answer})
        fill = functools.partial(
            render.render_service,
            opened.model_copy(update={"serve": answering}),
            target=target,
            model=made.model.path("model"),
            index=made.index.location if made.index else "",
        )
    objects = _on_overlay(overlay, components, fill)
    text = dump(objects)
    if output == SCREEN:
        typer.echo(text, nl=False)
        return
    output.write_text(text, encoding="utf-8")
    names = ", ".join(f"{item['kind']} {item['metadata']['name']}" for item in objects)
    console.print(f"{output}: {names}", highlight=False, soft_wrap=True)


def _on_overlay(
    name: str, components: list[str], fill: Callable[[list[Manifest]], list[Manifest]]
) -> list[Manifest]:
    """The objects on the named overlay, or without a name on the smallest that has the pods."""
    from headwater.kubernetes import kustomize
    from headwater.kubernetes.pods import TooSmall

    *smaller, largest = [name] if name else kustomize.OVERLAYS
    for overlay in smaller:
        with contextlib.suppress(TooSmall):
            return fill(kustomize.build(kustomize.find_overlay(overlay), components))
    return fill(kustomize.build(kustomize.find_overlay(largest), components))


def _made(recipe: Recipe) -> Servable:
    """The promoted model of the recipe, or its newest one, with its index.

    Raises HeadwaterError if a stage has not finished, or if the store cannot be read from here.
    """
    from rich.console import Console

    from headwater import pipeline
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.store import Store

    try:
        session = Session(Store(recipe.store), console=Console(stderr=True))  # stdout may carry the objects
        return pipeline.servable(recipe, session)
    except OSError as error:
        raise HeadwaterError(
            f"the store cannot be read ({error})",
            where=recipe.store,
            fix="check AWS_ENDPOINT_URL, AWS_REGION and the AWS keys in this shell",
        ) from error
