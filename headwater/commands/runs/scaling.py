"""`headwater scaling`: small runs on this machine that predict the loss of a larger one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headwater.options import AddressOption, RecipeArgument, SetOption, open_recipe, open_session

if TYPE_CHECKING:
    from headwater.llm.planning.scaling import ScalingConfig
    from headwater.recipe import Recipe


def scaling(
    recipe: RecipeArgument,
    depths: Annotated[str, typer.Option(help="Depths of the runs: two or more numbers.")] = "1,2,3",
    steps: Annotated[
        str | None,
        typer.Option(
            help="Lengths of the runs; default: a quarter, half and all of the recipe's steps, "
            "at most 20 tokens per parameter."
        ),
    ] = None,
    set_: SetOption = None,
    address: AddressOption = None,
) -> None:
    """Train a few small models on the recipe's tokens and fit the scaling law of `headwater plan`."""
    from headwater import pipeline
    from headwater.cluster.runtime.stage import execute
    from headwater.commands.runs.plan import LAW, law_of, work_of
    from headwater.llm.planning.plan import predicted
    from headwater.llm.planning.scaling import LAW as LAW_FILE
    from headwater.llm.planning.scaling import PLOT, Scaling

    opened = open_recipe(recipe, set_)
    sizes = _numbers(depths, "--depths")
    lengths = _numbers(steps, "--steps") if steps else default_steps(opened, max(sizes))
    config = _config(opened, sizes, lengths)
    with open_session(opened.store, address, opened.name, driver=True) as session:
        results = pipeline.run(opened, session, until="tokenize")
        inputs = {result.name: result.artifact for result in results}
        artifact, _ = execute(Scaling(config), inputs, session)
        folder = session.store.folder(f"runs/{opened.name}")
        folder.write_bytes(LAW, artifact.read_bytes(LAW_FILE))
        folder.write_bytes("scaling.png", artifact.read_bytes(f"picture/{PLOT}"))
        law = law_of(opened, session.store)
        assert law is not None
        left_out = artifact.read_json(LAW_FILE)["left_out"]
        if left_out:
            largest = max(law.points, key=lambda point: point.parameters * point.tokens)
            session.say(
                f"loss of the largest run: {largest.loss:.4f}; predicted from the others alone: "
                f"{left_out['mean']:.4f} ({left_out['low']:.4f} to {left_out['high']:.4f})"
            )
        work = work_of(opened, session.store)
        loss = predicted(law, work.parameters(), work.tokens)
        assert loss is not None
        session.console.print(
            f"[bold green]✓[/] L = {law.law.e:.3f} + {law.law.a:.3g} / N^{law.law.alpha:.2f} + "
            f"{law.law.b:.3g} / D^{law.law.beta:.2f}; [bold]{opened.name}[/]: {loss.mean:.3f} bits per byte "
            f"({loss.low:.3f} to {loss.high:.3f}), {loss.reach:.3g} times the largest run\n"
            f"  {artifact.path(LAW_FILE)}\n  {folder.path('scaling.png')}",
            highlight=False,
            soft_wrap=True,
        )


def default_steps(recipe: Recipe, depth: int) -> tuple[int, ...]:
    """A quarter, half and all of the recipe's steps; at most 20 tokens per parameter of the deepest run."""
    from headwater.llm.planning.plan import Work
    from headwater.llm.planning.scaling_law import CHINCHILLA
    from headwater.recipe import pretraining

    planned = pretraining(recipe)
    model = planned.settings.model.model_copy(update={"depth": depth})
    config = planned.settings.model_copy(update={"model": model})
    work = Work(recipe.name, config, planned.vocab_size, planned.row_length)
    step = config.batch * work.row_length
    most = min(config.steps, max(4, round(CHINCHILLA * work.parameters() / step)))
    return tuple(sorted({max(1, most // 4), max(2, most // 2), max(3, most)}))


def _numbers(text: str, option: str) -> tuple[int, ...]:
    from headwater.cluster.errors import HeadwaterError

    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise HeadwaterError(f"invalid numbers: {text}", where=option, fix=f"{option} 1,2,3") from error
    if min(numbers) < 1:
        raise HeadwaterError(f"{min(numbers)} is less than 1", where=option, fix="give positive integers")
    return numbers


def _config(recipe: Recipe, depths: tuple[int, ...], steps: tuple[int, ...]) -> ScalingConfig:
    from pydantic import ValidationError

    from headwater.cluster.errors import HeadwaterError
    from headwater.llm.planning.scaling import ScalingConfig
    from headwater.recipe import pretraining

    try:
        return ScalingConfig(pretrain=pretraining(recipe).settings, depths=depths, steps=steps)
    except ValidationError as error:
        what = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise HeadwaterError(what, where="--depths, --steps") from error
