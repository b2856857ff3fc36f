"""`headwater plan`: memory, time, cost and expected loss of a recipe's pretraining."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from headwater.cluster.errors import first_line
from headwater.options import AddressOption, RecipeArgument, SetOption, console, open_recipe, open_session
from headwater.tables import show

if TYPE_CHECKING:
    from headwater.cluster.storage.store import Store
    from headwater.llm.planning.budget import Budget
    from headwater.llm.planning.layouts import Memory, Room
    from headwater.llm.planning.plan import Plan, Work
    from headwater.llm.planning.scaling_law import FittedLaw
    from headwater.llm.stages.pretrain import PretrainConfig
    from headwater.recipe import Recipe

LAW = "scaling.json"
"""File in a run's folder: the scaling law that `headwater scaling` fitted for the recipe."""


def plan(
    recipe: RecipeArgument,
    gpus: Annotated[
        str | None,
        typer.Option(metavar="8xH100", help="Plan for these GPUs instead of this machine."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(min=0, metavar="DOLLARS", help="Compute the model and tokens it buys, too."),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="GPUs and prices, formatted as llm/hardware/hardware.yaml."),
    ] = None,
    mfu: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="Expected FLOPs, as a share of the GPUs' peak.")
    ] = None,
    measure: Annotated[
        bool, typer.Option(help="Measure a few training steps on this machine, if not measured before.")
    ] = True,
    set_: SetOption = None,
    address: AddressOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate memory, time, tokens, cost and loss of a recipe's pretraining before it runs."""
    from headwater.cluster.errors import HeadwaterError
    from headwater.llm.hardware.machines import parse_machine, read_table
    from headwater.llm.planning.budget import afford
    from headwater.llm.planning.plan import plan_gpus

    opened = open_recipe(recipe, set_)
    work, law, lacking = _known(opened)
    table = read_table(prices)
    bought: Budget | None = None
    if gpus is not None:
        machine = parse_machine(gpus, table)
        made = plan_gpus(work, machine, law, mfu)
        if budget is not None:
            if not machine.dollars_per_hour:
                raise HeadwaterError(f"{machine.name} has no price", where="--budget", fix="give --prices")
            bought = afford(work, machine, budget, law, mfu)
    elif budget is not None or mfu is not None:
        raise HeadwaterError("--budget and --mfu need --gpus", where="--budget", fix="give --gpus")
    else:
        made = _on_this_machine(opened, work, law, address, measure, quiet=json_)
    made = made.model_copy(update={"notes": [*lacking, *made.notes]})
    if json_:
        whole = made.model_dump() | ({"budget": bought.model_dump()} if bought else {})
        console.print_json(data=whole)
        _refuse(made)
        return
    _show(made)
    if bought is not None:
        console.print(
            f"\n[bold]${bought.dollars:,.0f} buys[/] {bought.hours:.1f} h of {made.target}, "
            f"{bought.flops:.2g} FLOPs; parameters and tokens by {bought.rule}:",
            highlight=False,
        )
        _show(bought.plan)
        keys: dict[str, int | str] = {
            "depth": bought.plan.depth,
            "pretrain.batch": bought.plan.batch,
            "pretrain.steps": bought.plan.steps,
            "pretrain.micro_batch": bought.plan.micro_batch,
            "pretrain.zero.stage": bought.plan.zero,
            "pretrain.workers": bought.plan.workers,
            "pretrain.gpus_per_worker": 1,
        }
        if stages := [stage.model_dump(exclude_none=True) for stage in bought.plan.batch_stages]:
            keys["pretrain.batch_stages"] = f"'{json.dumps(stages)}'"
        chosen = " ".join(f"--set {key}={value}" for key, value in keys.items())
        console.print(f"  [cyan]{chosen}[/]", highlight=False, soft_wrap=True)
    _refuse(made)


def _refuse(made: Plan) -> None:
    """Raises HeadwaterError, with what would fit, if no worker can hold the model as planned."""
    from headwater.cluster.errors import HeadwaterError

    if made.refused:
        fix = f"would fit: {'; '.join(made.would_fit)}" if made.would_fit else "choose a smaller model"
        raise HeadwaterError(made.refused, where=f"{made.recipe} on {made.target}", fix=fix)


def _known(recipe: Recipe) -> tuple[Work, FittedLaw | None, list[str]]:
    """The recipe's work and scaling law. A bucket that does not answer is a note: a plan needs no store."""
    from headwater.cluster.storage.store import Store

    store = Store(recipe.store)
    try:
        return work_of(recipe, store), law_of(recipe, store), []
    except OSError as error:
        reason = first_line(error)
        note = f"{recipe.store} cannot be read: planned from the recipe's settings alone ({reason})"
        return work_of(recipe, None), None, [note]


def work_of(recipe: Recipe, store: Store | None) -> Work:
    """The recipe's pretraining work. Vocabulary size and validation rows are exact if it is tokenized in
    `store`."""
    from headwater.llm.planning.plan import Work
    from headwater.recipe import pretraining, required

    planned = pretraining(recipe)
    settings = required(recipe.tokenize, "tokenize").model_dump(mode="json")
    manifests = store.manifests() if store else []
    made = [m for m in manifests if m.stage == "tokenize" and m.config == settings]
    metrics: dict[str, Any] = made[-1].metrics if made else {}
    return Work(
        recipe.name,
        planned.settings,
        metrics.get("vocab_size", planned.vocab_size),
        planned.row_length,
        validation_rows=metrics.get("validation_rows", 0),
    )


def law_of(recipe: Recipe, store: Store) -> FittedLaw | None:
    from headwater.llm.planning.scaling_law import FittedLaw

    folder = store.folder(f"runs/{recipe.name}")
    return FittedLaw.from_json(folder.read_json(LAW)) if folder.exists(LAW) else None


def _on_this_machine(
    recipe: Recipe, work: Work, law: FittedLaw | None, address: str | None, measure: bool, *, quiet: bool
) -> Plan:
    from headwater.cluster.errors import HeadwaterError
    from headwater.cluster.storage.store import Store
    from headwater.llm.planning.calibrate import calibrate, place, read_calibration
    from headwater.llm.planning.plan import plan_here

    config = work.config
    on_gpus = bool(config.gpus_per_worker)
    if on_gpus and address is None and not _has_gpus():
        what = "this recipe trains on GPUs, but this machine has none"
        raise HeadwaterError(what, where="pretrain.gpus_per_worker", fix="give --gpus")
    shape = work.shape()
    room = _room(config) if address is None else None
    measured = read_calibration(Store(recipe.store), place(config, shape, work.row_length, address))
    if measured is None and measure and not plan_here(work, None, law, room).refused:
        was_quiet, console.quiet = console.quiet, quiet
        try:
            with open_session(recipe.store, address, recipe.name) as session:
                session.say("measuring a few steps on this machine …")
                measured = calibrate(config, shape, work.row_length, session)
        finally:
            console.quiet = was_quiet
    return plan_here(work, measured, law, room)


def _room(config: PretrainConfig) -> Room:
    """The memory of this machine for each worker of a recipe."""
    import psutil  # type: ignore[import-untyped]
    import torch

    from headwater.llm.planning.layouts import Room

    host = psutil.virtual_memory().total / config.workers
    if not config.gpus_per_worker:
        return Room(host, host)
    device = torch.cuda.get_device_properties(0).total_memory * min(1.0, config.gpus_per_worker)
    return Room(device, host)


def _has_gpus() -> bool:
    import torch

    return torch.cuda.is_available()


def _show(made: Plan) -> None:
    from headwater.llm.evaluation.report import duration

    console.print(f"[bold]{escape(made.recipe)}[/] on {escape(made.target)}", highlight=False)
    lines = [
        ("model", f"depth {made.depth}, width {made.width}, {made.parameters:,} parameters"),
        (
            "tokens",
            f"{made.tokens:,} in {made.steps:,} steps of {made.batch} x {made.row_length}, "
            f"{made.tokens_per_parameter:.3g} per parameter",
        ),
        (
            "workers",
            f"{made.workers}, ZeRO {made.zero}, {made.precision}, {made.optimizer}; micro-batch "
            f"{made.micro_batch} x {made.accumulation} accumulated",
        ),
        (
            "memory",
            f"{_size(made.peak_bytes)} per worker, of which {_size(made.state_bytes)} weights and optimizer",
        ),
    ]
    if made.seconds is not None and made.step_seconds is not None:
        speed = made.batch * made.row_length / made.step_seconds
        bounds = ""
        if made.seconds_low is not None and made.seconds_high is not None and made.dollars is not None:
            bounds = f" ({duration(made.seconds_low)} to {duration(made.seconds_high)})"
            price = f"${made.dollars:,.2f} (${made.dollars_low:,.2f} to ${made.dollars_high:,.2f})"
            lines.append(("price", price))
        lines.append(("time", f"{duration(made.seconds)}{bounds}, {speed:,.0f} tokens/s"))
    if made.loss is not None:
        lines.append(
            (
                "loss",
                f"{made.loss.mean:.3f} bits per byte ({made.loss.low:.3f} to {made.loss.high:.3f}), from the "
                f"law of {made.loss.runs} runs, {made.loss.reach:.3g} times the largest of them",
            )
        )
    for name, text in lines:
        console.print(f"  [bold]{name:<8}[/] {text}", highlight=False, soft_wrap=True)
    show(console, _memory_table(made.memory))
    for note in made.notes:
        console.print(f"  {escape(note)}", style="yellow", highlight=False, soft_wrap=True)


def _memory_table(rows: list[Memory]) -> Table:
    unit, name = (1e9, "GB") if max(row.total for row in rows) >= 1e10 else (1e6, "MB")
    digits = 2 if unit == 1e9 else 1
    table = Table(
        title=f"memory per worker, {name}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    timed = any(row.step_seconds is not None for row in rows)
    columns = ("ZeRO", "rows", "weights", "grads", "optim", "passes", "libs", "all", "host", "fits")
    for column in (*columns, *(("step s",) if timed else ())):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        state = (row.parameters, row.gradients, row.optimizer)
        sizes = (*state, row.working, row.reserved, row.total, row.host_total)
        table.add_row(
            f"{row.zero}{' host' if row.offload else ''}",
            str(row.micro_batch),
            *(f"{size / unit:,.{digits}f}" if size else "" for size in sizes),
            "yes" if row.fits else "no",
            *((f"{row.step_seconds:.4f}",) if row.step_seconds else ()),
        )
    return table


def _size(count: float) -> str:
    """A byte count with two decimals, precise enough to compare a plan with a measurement."""
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB")) if count >= u), (1e3, "kB"))
    return f"{count / unit:,.2f} {name}"
