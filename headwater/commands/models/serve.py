"""`headwater serve`: the endpoint of a recipe's model, or of any other."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.options import AddressOption, SetOption, open_recipe, open_session

if TYPE_CHECKING:
    from headwater.cluster.runtime.session import Session
    from headwater.pipeline import Servable
    from headwater.recipe import Recipe
    from headwater.serving.config import AppConfig

BARE = "served"
"""Name of the recipe that stands for a model without one."""


def serve(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="A recipe file, or the name of a packaged recipe; not with --model."),
    ] = None,
    set_: SetOption = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH|STAGE/KEY|NAME=…",
            help="Serve this model without a recipe: a Hugging Face folder, s3://, an artifact of --store. "
            "NAME=… adds one to it, or to a recipe's: such a model, or a LoRA adapter's folder. Repeatable.",
        ),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(metavar="PATH|index/KEY", help="With --model: the passages that it answers from."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Model name that clients send.")] = None,
    store: Annotated[
        str | None,
        typer.Option(help="With --model: the store of STAGE/KEY, and of people's rankings."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: the recipe's.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one.")] = None,
    web: Annotated[
        str | None,
        typer.Option(
            metavar="CONTACT",
            help="Read pages of the live web that requests name; your e-mail address or URL is sent to them.",
        ),
    ] = None,
    web_search: Annotated[
        str | None,
        typer.Option(
            metavar="searxng=URL|brave", help="With --web: also ask this search provider for pages."
        ),
    ] = None,
    address: AddressOption = None,
) -> None:
    """Serve a recipe's promoted model (its newest, if none was promoted), or --model, until interrupted."""
    from headwater.cluster.errors import HeadwaterError
    from headwater.cluster.extras import require

    require("serve")
    kind, _, place = (web_search or "").partition("=")
    given = {
        "serve.host": host,
        "serve.port": port,
        "serve.model_name": name,
        "serve.web.contact": web,
        "serve.web.search.kind": kind or None,
        "serve.web.search.url": place or None,
    }
    overrides = [*(set_ or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]
    whole, named = _named(model or [])
    if (recipe is None) == (not whole) or len(whole) > 1:
        raise HeadwaterError(
            "give either a recipe or --model",
            where="headwater serve",
            fix="headwater serve recipes/quickstart.yaml, or headwater serve --model FOLDER",
        )
    if whole:
        _serve_model(whole[0], index or "", store, overrides, address, named)
        return
    if index or store:
        raise HeadwaterError("--index and --store belong to --model", where=str(recipe), fix="leave them out")
    from headwater import pipeline

    assert recipe is not None
    opened = with_models(open_recipe(recipe, overrides), named)
    with open_session(opened.store, address, opened.name) as session:
        _until_interrupted(app_config(opened, pipeline.servable(opened, session), session), session)


def _named(models: list[str]) -> tuple[list[str], dict[str, str]]:
    """Those of --model without a name, and name → path of the others."""
    from headwater.serving.config import NAME

    whole: list[str] = []
    named: dict[str, str] = {}
    for each in models:
        name, equals, path = each.partition("=")
        if equals and NAME.fullmatch(name) and "/" not in name and not Path(each).exists():
            named[name] = path
        else:
            whole.append(each)
    return whole, named


def with_models(recipe: Recipe, named: dict[str, str]) -> Recipe:
    """The recipe with more models to serve; a name keeps the `base` that `serve.models` gives it."""
    from headwater.serving.config import ServedModel

    models = recipe.serve.models
    given = {
        name: ServedModel(path=path, base=models[name].base if name in models else "")
        for name, path in named.items()
    }
    return recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"models": models | given})})


def _serve_model(
    model: str,
    index: str,
    store: str | None,
    overrides: list[str],
    address: str | None,
    named: dict[str, str],
) -> None:
    from headwater.recipe import bare

    with tempfile.TemporaryDirectory(prefix="headwater-serve-") as folder:
        opened = with_models(bare(BARE, store or folder, overrides), named)
        config = model_config(opened, model, index, store)
        with open_session(opened.store, address, BARE) as session:
            _until_interrupted(config, session)


def model_config(opened: Recipe, model: str, index: str = "", store: str | None = None) -> AppConfig:
    """The endpoint's settings for a model without a recipe. Without a store rankings are refused.

    Raises HeadwaterError if model or index is not there.
    """
    from headwater.cluster.storage.artifact import Artifact
    from headwater.llm.model.files.source import find_model
    from headwater.serving.app import check
    from headwater.serving.config import AppConfig

    found = _artifact(model, store)
    if found is not None:
        model = found.path("model")
    elif not Artifact(model).exists("config.json") and Artifact(model).exists("model/config.json"):
        model = Artifact(model).path("model")  # the folder of an artifact
    find_model(model)
    if index and (passages := _artifact(index, store)) is not None:
        index = passages.location
    config = AppConfig(**opened.serve.model_dump(), model=model, index=index, store=store or "")
    check(config)
    return config


def _artifact(name: str, store: str | None) -> Any:
    """The artifact that STAGE/KEY names; None for a path."""
    from headwater.cluster.errors import HeadwaterError
    from headwater.cluster.storage.store import Store
    from headwater.pipeline import NAMES

    stage, slash, key = name.partition("/")
    if not slash or stage not in NAMES or "/" in key or Path(name).exists():
        return None
    if store is None:
        raise HeadwaterError("STAGE/KEY needs a store", where=name, fix="add --store, or give a folder")
    return Store(store).find(stage, key)


def _until_interrupted(config: AppConfig, session: Session) -> None:
    from headwater.serving import app as endpoint

    with session.console.status("starting the endpoint"):
        url = endpoint.start(config, session)
    session.console.print(f"{config.choice()}.", style="dim", highlight=False)
    names = "[/], [bold]".join([config.model_name, *config.models])
    session.console.print(
        f"Serving [bold]{names}[/] at [cyan]{url}/[/] (OpenAI API: {url}/v1). Press Ctrl-C to stop.",
        highlight=False,
    )
    try:
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    finally:
        endpoint.stop()


def app_config(recipe: Recipe, made: Servable, session: Session) -> AppConfig:
    """The endpoint's settings for what a recipe has made."""
    from headwater.serving.config import AppConfig

    return AppConfig(
        **recipe.serve.model_dump() | {"answer": made.answer},
        model=made.model.path("model"),
        index=made.index.location if made.index else "",
        store=session.store.location,
    )
