"""The `headwater` command: run a recipe, look at what it made, serve it, ask it."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from headwater import __version__
from headwater.cluster.errors import readable, root_cause
from headwater.cluster.extras import missing_extra
from headwater.commands.corpus import data, quality
from headwater.commands.corpus.clean import clean
from headwater.commands.corpus.crawl import crawl, opt_outs
from headwater.commands.corpus.funnel import explain, funnel
from headwater.commands.models import keys, rankings
from headwater.commands.models.batch import batch
from headwater.commands.models.bias import bias
from headwater.commands.models.evaluate import evaluate
from headwater.commands.models.export import export
from headwater.commands.models.improve import improve
from headwater.commands.models.probe import probe
from headwater.commands.models.promote import promote, promoted, rollback
from headwater.commands.models.serve import app_config, serve
from headwater.commands.runs import k8s, trace
from headwater.commands.runs.attempts import runs_app
from headwater.commands.runs.dial import dial
from headwater.commands.runs.init import init
from headwater.commands.runs.jobs import jobs_app, submit
from headwater.commands.runs.operations import doctor, status
from headwater.commands.runs.packaged import constraints, recipes
from headwater.commands.runs.plan import plan
from headwater.commands.runs.replay import replay
from headwater.commands.runs.scaling import scaling
from headwater.commands.runs.selftest import selftest
from headwater.commands.runs.show import show
from headwater.options import (
    OLD_SPELLING,
    AddressOption,
    MaxWorkersOption,
    RecipeArgument,
    SetOption,
    UntilOption,
    UrlOption,
    console,
    open_recipe,
    open_session,
)

if TYPE_CHECKING:
    from headwater.pipeline import Servable

app = typer.Typer(
    help="From raw web text to a served assistant that cites its sources.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(k8s.app, name="k8s")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headwater {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options common to all commands."""
    _state["debug"] = debug


_state = {"debug": False}


@app.command()
def run(
    recipe: RecipeArgument,
    set_: SetOption = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Run this stage and all later ones again.")
    ] = None,
    until: UntilOption = None,
    address: AddressOption = None,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Run the unfinished stages of a recipe, then ask one question over HTTP."""
    from headwater import pipeline
    from headwater.llm.stages.models import MODELS, newest

    opened = open_recipe(recipe, set_)
    with open_session(opened.store, address, opened.name, driver=True, max_workers=max_workers) as session:
        console_line = f"[bold]{opened.name}[/] → {session.store.location}"
        session.console.print(console_line, highlight=False, soft_wrap=True)
        results = pipeline.run(opened, session, start=from_, until=until)
        artifacts = {result.name: result.artifact for result in results}
        card = ""
        if "evaluate" in artifacts:
            from headwater.show import publish_report

            card = publish_report(session.store, opened.name, artifacts["evaluate"])
        if until is not None:
            return
        served = any(name in artifacts for name in MODELS)
        if opened.question and served:
            made = pipeline.Servable(newest(artifacts), artifacts.get("index"), opened.serve.answer)
            _ask_once(opened, made, session)
        overrules = "".join(f" --set {value}" for value in set_ or [])
        chat = f"http://{opened.serve.host}:{opened.serve.port}/"
        steps = {f"headwater show --store {opened.store}": "artifacts, metrics, lineage"}
        if served:
            first = {f"headwater serve {recipe}{overrules}": f"chat at {chat}"}
            if not pipeline.promote_finished(opened, session, artifacts):
                told = "serve this model; another one is promoted (headwater promoted)"
                first = {f"headwater promote {recipe}{overrules}": told} | first
            steps = first | {'headwater ask "…"': "ask the served model"} | steps
        elif "clean" in artifacts:
            steps = {f"headwater funnel --store {opened.store}": "what cleaning dropped, and why"} | steps
        lines = [
            ("What next" if n == 0 else "", f"[cyan]{do}[/]  {what}")
            for n, (do, what) in enumerate(steps.items())
        ]
        session.console.print()
        for label, text in [("Report card", card)] * bool(card) + lines:
            session.console.print(f"{label:<13}{text}", highlight=False, soft_wrap=True)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    url: UrlOption = "http://127.0.0.1:8000",
    retrieval: Annotated[bool, typer.Option(help="Answer from sources, with citations.")] = True,
    api_key: Annotated[
        str, typer.Option(envvar="HEADWATER_API_KEY", help="API key, if the server requires one.")
    ] = "",
) -> None:
    """Ask a served model; print the answer and the sources it cites."""
    from headwater.serving.api.client import ask as ask_endpoint

    _print_answer(console, ask_endpoint(url, question, retrieval=retrieval, api_key=api_key))


app.command()(serve)
app.command()(crawl)
app.command()(opt_outs)
app.command()(clean)
app.command()(explain)
app.command()(funnel)
app.add_typer(quality.app, name="quality")
app.add_typer(data.app, name="data")
app.add_typer(rankings.app, name="rankings")
app.add_typer(keys.app, name="key")
app.command()(dial)
app.add_typer(trace.app, name="trace")
app.command()(promote)
app.command()(rollback)
app.command()(promoted)
app.command()(improve)
app.command()(replay)
app.command()(evaluate)
app.command()(probe)
app.command()(bias)
app.command()(export)
app.command()(batch)
app.command()(plan)
app.command()(scaling)
app.command(context_settings=OLD_SPELLING)(submit)
app.add_typer(jobs_app, name="jobs")
app.command(context_settings=OLD_SPELLING)(status)
app.add_typer(runs_app, name="runs")
app.command()(show)
app.command()(doctor)
app.command()(selftest)
app.command()(init)
app.command()(recipes)
app.command()(constraints)


def main() -> None:
    """Entry point. Expected errors print as one line; every error exits non-zero."""
    try:
        app()
    except KeyboardInterrupt:
        console.print("\ninterrupted; run the same command to resume", style="yellow")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 (top level: report every error)
        told = readable(error) or missing_extra(root_cause(error))
        if _state["debug"]:
            traceback.print_exception(error)
        elif told:
            console.print(f"[bold red]error[/] {escape(str(told))}", highlight=False, soft_wrap=True)
        else:
            cause = root_cause(error)
            console.print(
                f"[bold red]error[/] {escape(f'{type(cause).__name__}: {cause}')}\n"
                "This error is unexpected, probably a bug. For its traceback: headwater --debug COMMAND.",
                highlight=False,
                soft_wrap=True,
            )
        sys.exit(1)


def _ask_once(recipe: Any, made: Servable, session: Any) -> None:
    """Start the endpoint on a free port, ask the recipe's question, print the answer, stop."""
    from headwater.serving import app as endpoint
    from headwater.serving.api.client import ask as ask_endpoint

    here = {"host": "127.0.0.1", "port": 0, "api_keys": ""}
    config = app_config(recipe, made, session).model_copy(update=here)
    with session.console.status("starting the endpoint"):
        url = endpoint.start(config, session)
    try:
        session.console.print(f"\n[bold]You[/]        {escape(recipe.question)}", highlight=False)
        _print_answer(session.console, ask_endpoint(url, recipe.question))
    finally:
        endpoint.stop()


def _print_answer(out: Console, answer: Any) -> None:
    out.print(f"[bold]Headwater[/]  {escape(answer.text)}", highlight=False)
    for citation in answer.sources():
        out.print(
            f"  \\[{citation['index']}] {escape(citation['title'])}\n      {escape(citation['url'])}",
            highlight=False,
            soft_wrap=True,
        )
