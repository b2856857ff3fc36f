"""`headwater submit` and `headwater jobs`: run recipes as jobs on a Ray cluster."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.attempts import run_json
from headwater.options import (
    DASHBOARD,
    OLD_SPELLING,
    DashboardOption,
    JsonOption,
    RecipeArgument,
    SetOption,
    UntilOption,
    console,
    open_recipe,
)
from headwater.status import COLOURS, ago, progress_text
from headwater.tables import print_json, show

if TYPE_CHECKING:
    from headwater.cluster.jobs.jobs import Job, Jobs
    from headwater.cluster.runtime.run_record import Record
    from headwater.recipe import Recipe

MODULES = ("headwater",)
SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
"""Variable names that look secret. A job's description, readable on the whole cluster, must not hold them."""

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Job id, from `headwater jobs list`.")]

jobs_app = typer.Typer(help="Manage runs submitted to a cluster.", no_args_is_help=True)


def submit(
    recipe: RecipeArgument,
    dashboard: DashboardOption = DASHBOARD,
    set_: SetOption = None,
    until: UntilOption = None,
    follow: Annotated[
        bool, typer.Option("--follow/--detach", help="Print the job's log until it ends.")
    ] = True,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Environment variable that must be set on the cluster's nodes."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Environment variable to set for the job. Not for secrets."),
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Install the pinned packages on nodes whose image lacks them.")
    ] = False,
    restarts: Annotated[int, typer.Option(min=0, help="Number of times a killed driver is restarted.")] = 3,
) -> None:
    """Run a recipe as a job on a cluster. Submitting it again joins the running job."""
    from headwater.cluster.jobs.jobs import Jobs
    from headwater.pipeline import position

    opened = open_recipe(recipe, set_)
    position(until, 0)
    _check_store(opened)
    variables = _variables(env or [])
    _check_names(secret or [])
    jobs = Jobs(dashboard)
    job, joined = _submit(jobs, opened, until, variables, secret or [], install, restarts)
    verb = "joined" if joined else "submitted"
    console.print(f"[bold]{job.id}[/] {verb} at {jobs.address}", highlight=False, soft_wrap=True)
    if follow:
        _follow(jobs, job.id)
    else:
        console.print(f"headwater jobs logs {job.id} --follow --dashboard {jobs.address}", highlight=False)


@jobs_app.command("list", context_settings=OLD_SPELLING)
def list_(dashboard: DashboardOption = DASHBOARD, json: JsonOption = False) -> None:
    """List the jobs of a cluster, oldest first."""
    from headwater.cluster.jobs.jobs import Jobs

    jobs = Jobs(dashboard).all()
    if json:
        print_json({"jobs": [asdict(job) for job in jobs]})
        return
    table = Table("job", "run", "state", "started", "duration", "store")
    now = time.time()
    for job in jobs:
        took = "" if job.started is None else f"{(job.ended or now) - job.started:,.0f} s"
        started = "" if job.started is None else ago(now - job.started)
        table.add_row(job.id, job.run, job.status.lower(), started, took, job.store)
    show(console, table)


@jobs_app.command(context_settings=OLD_SPELLING)
def status(job: JobArgument, dashboard: DashboardOption = DASHBOARD, json: JsonOption = False) -> None:
    """Show a job's state, and its run's progress if the store is reachable from here."""
    from headwater.cluster.jobs.jobs import Jobs

    found = Jobs(dashboard).get(job)
    record, problem = _record(found)
    if json:
        print_json({"job": asdict(found), "run": record and run_json(record), "problem": problem})
        return
    console.print(
        f"[bold]{found.id}[/]  {found.status.lower()}  {found.message}", highlight=False, soft_wrap=True
    )
    line = problem
    if record:
        state = record.shown_state(time.time())
        line = f"run {record.recipe} {state}: {record.stage} {progress_text(record)}"
    console.print(line, highlight=False, soft_wrap=True)


@jobs_app.command(context_settings=OLD_SPELLING)
def logs(
    job: JobArgument,
    dashboard: DashboardOption = DASHBOARD,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the job ends.")] = False,
) -> None:
    """Print a job's log."""
    from headwater.cluster.jobs.jobs import Jobs

    jobs = Jobs(dashboard)
    if follow:
        _follow(jobs, job)
    else:
        console.out(jobs.logs(job), end="", highlight=False)


@jobs_app.command(context_settings=OLD_SPELLING)
def stop(job: JobArgument, dashboard: DashboardOption = DASHBOARD) -> None:
    """Stop a job. Finished stages are kept; submitting the recipe again resumes after them."""
    from headwater.cluster.jobs.jobs import Jobs

    ended = Jobs(dashboard).stop(job)
    console.print(f"[bold]{ended.id}[/]  {ended.status.lower()}", highlight=False)


def _submit(
    jobs: Jobs,
    recipe: Recipe,
    until: str | None,
    variables: dict[str, str],
    secrets: Sequence[str],
    install: bool,
    restarts: int,
) -> tuple[Job, bool]:
    from headwater.cluster.jobs.jobs import Submission, identity
    from headwater.cluster.jobs.package import PACKAGES, pinned_requirements, working_directory

    options = [f"--need-env={name}" for name in secrets]
    if not install:  # with --install the packages match by construction
        options.append(f"--packages={PACKAGES}")
    command = [
        *("python", "-m", "headwater.cluster.jobs.driver", f"--restarts={restarts}", *options, "--"),
        *("python", "-m", "headwater", "run", "recipe.yaml", "--address", "auto"),
        *(("--until", until) if until else ()),
    ]
    with working_directory(MODULES, {"recipe.yaml": recipe.to_yaml()}) as folder:
        return jobs.submit(
            Submission(
                run=recipe.name,
                store=recipe.store,
                command=tuple(command),
                folder=folder,
                identity=identity(recipe.name, {"recipe": recipe.model_dump(mode="json"), "until": until}),
                env=variables,
                pip=pinned_requirements() if install else (),
            )
        )


def _follow(jobs: Jobs, identifier: str) -> None:
    """Print the log until the job ends. Raises HeadwaterError unless it succeeded."""
    try:
        for text in jobs.follow(identifier):
            console.out(text, end="", highlight=False)
    except KeyboardInterrupt:
        console.print(
            f"\nno longer following; the job still runs (headwater jobs stop {identifier} stops it)",
            style="yellow",
        )
        return
    job = jobs.get(identifier)
    if job.status != "SUCCEEDED":
        last = job.message.strip().splitlines()
        raise HeadwaterError(
            f"{job.status.lower()}: {last[0] if last else 'no message'}",
            where=identifier,
            fix="see its log above; submit the recipe again to resume after the last finished stage",
        )
    console.print(f"[bold]{job.id}[/] [{COLOURS['finished']}]succeeded[/]", highlight=False)


def _record(job: Job) -> tuple[Record | None, str]:
    """The record of a job's run, or why it cannot be read from here."""
    from headwater.cluster.runtime.run_record import read_record
    from headwater.cluster.storage.store import Store

    try:
        record = read_record(Store(job.store), job.run)
    except (OSError, HeadwaterError) as error:
        return None, f"the store {job.store} cannot be read from here ({error})"
    if record is None:
        return None, f"no record of run {job.run} in {job.store} (is this store on a disk of the cluster?)"
    return record, ""


def _check_store(recipe: Recipe) -> None:
    from headwater.cluster.storage.filesystem import is_remote

    if not is_remote(recipe.store) and not Path(recipe.store.removeprefix("file://")).is_absolute():
        raise HeadwaterError(
            "a relative folder would be lost with the job",
            where=f"store: {recipe.store}",
            fix="set store=s3://bucket/prefix, or the absolute path of a folder that every node mounts",
        )


def _variables(given: Sequence[str]) -> dict[str, str]:
    variables = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise HeadwaterError("not of the form NAME=VALUE", where=f"--env {name}")
        if SECRET_NAME.search(name):
            raise HeadwaterError(
                "this looks like a secret, and everyone on the cluster can read a job's description",
                where=f"--env {name}",
                fix=f"set it on the cluster's nodes and pass its name: --secret {name}",
            )
        variables[name] = value
    return variables


def _check_names(secrets: Sequence[str]) -> None:
    for name in secrets:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            shown = name.partition("=")[0]  # the rest may be the secret itself
            raise HeadwaterError(
                "--secret takes only the name of a variable, never its value",
                where=f"--secret {shown}",
                fix="set the value in the environment of the cluster's nodes",
            )
