"""`headwater data`: what a training stage would make of own files, and what `acquire` would fetch."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from headwater.commands.corpus.data_plan import plan
from headwater.options import SetOption, console

if TYPE_CHECKING:
    from headwater.llm.examples.own_data.check import FileCheck, Piece, Purpose
    from headwater.llm.examples.own_data.source import DataSource
    from headwater.recipe import Recipe

app = typer.Typer(help="Look at data before it is trained on, or fetched.", no_args_is_help=True)
app.command()(plan)

PURPOSES: tuple[Purpose, ...] = ("sft", "reward", "rl")
PROBLEMS_LISTED = 10
PIECE_CHARACTERS = 800
"""Longer pieces of a shown conversation are cut in their middle."""
LEARNT = ("{+", "+}")
"""Marks of learnt text where there is no colour."""


@app.command()
def check(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE…]",
            help="JSONL, JSON or Parquet: files, folders, globs, s3://, hf://. Default: the recipe's.",
        ),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="messages, alpaca, sharegpt, prompt_completion, oasst, hh, preference; auto tells it.",
        ),
    ] = "auto",
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A=B", help="The file's column B is the format's A: prompt=question; repeatable."
        ),
    ] = None,
    as_: Annotated[
        str, typer.Option("--as", metavar="STAGE", help="What it is for: sft, reward (and dpo) or rl.")
    ] = "sft",
    model: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Model or tokenizer whose tokens are counted.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Take files, tokenizer and max_length from this recipe.")
    ] = None,
    set_: SetOption = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Maximum tokens; default: the recipe's or the stage's.")
    ] = None,
) -> None:
    """Show what would be trained on: formats, three examples, lengths, and what is dropped and why."""
    from headwater.cluster.errors import HeadwaterError
    from headwater.llm.examples.own_data.check import Checker
    from headwater.llm.examples.own_data.source import list_files
    from headwater.options import open_recipe

    purpose = next((name for name in PURPOSES if name == as_), None)
    if purpose is None:
        raise HeadwaterError(f"no such stage {as_}", where="--as", fix=f"one of {', '.join(PURPOSES)}")
    opened = open_recipe(recipe, set_) if recipe else None
    sources = _given(files, format_, columns) if files else _of_recipe(opened, purpose)
    limit = max_length or _max_length(opened, purpose)
    listed = list_files(sources, f"{purpose}.data" if opened and not files else "FILE")
    tokenizer = _tokenizer(model, opened)
    checker = Checker(purpose, tokenizer, limit)
    found: list[FileCheck] = []
    failed = 0
    for file in listed:
        try:
            with console.status(f"reading {escape(file.path)}"):
                found.append(checker(file.source, file.path))
        except HeadwaterError as error:
            failed += 1
            console.print(f"[bold red]error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            continue
        _print_file(file.path, found[-1], purpose)
    if sum(one.used for one in found):
        _print_lengths(found, limit, tokens=tokenizer is not None)
    _print_problems(found)
    if failed:
        raise typer.Exit(1)


def _given(files: list[str], format_: str, columns: list[str] | None) -> Sequence[DataSource]:
    """The source that the command line describes."""
    from pydantic import ValidationError

    from headwater.cluster.errors import HeadwaterError
    from headwater.llm.examples.own_data.source import DataSource

    named = {}
    for pair in ",".join(columns or []).split(",") if columns else []:
        part, equals, column = pair.partition("=")
        if not equals or not column:
            raise HeadwaterError("not of the form A=B", where=f"--columns {pair}", fix="e.g. prompt=question")
        named[part.strip()] = column.strip()
    try:
        return [DataSource.model_validate({"files": files, "format": format_, "columns": named})]
    except ValidationError as error:
        fault = error.errors()[0]
        option = f"--{fault['loc'][0]}" if fault["loc"] else ""
        raise HeadwaterError(fault["msg"].removeprefix("Value error, "), where=option) from error


def _of_recipe(recipe: Recipe | None, purpose: Purpose) -> Sequence[DataSource]:
    """The sources that a recipe's section lists."""
    from headwater.cluster.errors import HeadwaterError
    from headwater.llm.examples.own_data.source import DataSource

    if recipe is None:
        raise HeadwaterError(
            "no FILE", where="headwater data check", fix="name files, or a --recipe that lists some"
        )
    section: Any = getattr(recipe, purpose)
    key = "prompts" if purpose == "rl" else "data"
    listed = list(getattr(section, key, None) or ())
    if purpose == "reward" and not listed:  # the same pairs may be for dpo alone
        listed = list(getattr(recipe.dpo, key, None) or ())
    listed += [DataSource(files=(file,), format="messages") for file in getattr(section, "files", ())]
    if not listed:
        fix = f"name files, or list them in `{purpose}.{key}`"
        raise HeadwaterError(f"the recipe lists no own files for {purpose}", where=recipe.name, fix=fix)
    return listed


def _max_length(recipe: Recipe | None, purpose: Purpose) -> int:
    """The tokens that the recipe, or else the stage by default, leaves for an example (rl: a prompt)."""
    section = getattr(recipe, purpose, None) or _default(purpose)
    if purpose != "rl":
        return int(section.max_length)
    pretrain = getattr(recipe, "pretrain", None) or _default("pretrain")
    return int(pretrain.model.context - section.max_new_tokens)


def _default(section: str) -> Any:
    """A section of the recipe with its defaults."""
    from headwater.llm.stages.pretrain import PretrainConfig
    from headwater.llm.stages.reward import RewardConfig
    from headwater.llm.stages.rl import RlConfig
    from headwater.llm.stages.sft import SftConfig

    kinds = {"pretrain": PretrainConfig, "sft": SftConfig, "reward": RewardConfig, "rl": RlConfig}
    return kinds[section]()


def _tokenizer(model: str | None, recipe: Recipe | None) -> Any:
    """The tokenizer of a folder, or of a recipe if its stage has finished; else None, and says so."""
    from headwater.cluster.extras import require
    from headwater.cluster.storage.artifact import Folder

    if model is None and recipe is None:
        _say("Without --model or --recipe: text instead of tokens, lengths in words, nothing is shortened.")
        return None
    require("train")
    from headwater.data_pipeline.tokens.tokenizer import TOKENIZER, load_tokenizer

    if model is not None:
        return load_tokenizer(model)
    from headwater import pipeline
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.store import Store

    assert recipe is not None
    sections = [name for name in TOKENIZER.stages if getattr(recipe, name) is not None]
    if (name := TOKENIZER.choose(sections)) is not None:
        with Session(Store(recipe.store), console=console) as session:
            _, artifact = pipeline.located(recipe, session, name)[name]
            if artifact.manifest() is not None:
                return load_tokenizer(Folder(artifact, "tokenizer").local())
    _say("The recipe's tokenizer is not there yet: text instead of tokens, lengths in words.")
    return None


def _print_file(path: str, found: FileCheck, purpose: Purpose) -> None:
    what = {"sft": "conversations", "reward": "pairs", "rl": "prompts"}[purpose]
    held = f", {found.heldout:,} of them held out" if found.heldout else ""
    skipped = sum(found.skipped.values())
    _say(f"{path}: format {found.format}, {found.used:,} {what}{held}; {skipped:,} dropped")
    for shown in found.shown:
        console.print(f"\n[dim]{escape(shown.where)}[/]", highlight=False, soft_wrap=True)
        for name, pieces in shown.parts.items():
            if len(shown.parts) > 1:
                console.print(f"[dim]{name}:[/]", highlight=False)
            console.print(_marked(pieces), soft_wrap=True, highlight=False)
    if found.shown:
        console.print()


def _marked(pieces: Sequence[Piece]) -> Text:
    """The pieces as text: the learnt ones green on a terminal, in marks elsewhere."""
    text = Text()
    for piece, learnt in pieces:
        if len(piece) > PIECE_CHARACTERS:
            half = PIECE_CHARACTERS // 2
            cut = len(piece) - 2 * half
            piece = f"{piece[:half]} … ({cut:,} more characters) … {piece[-half:]}"
        if learnt and not console.is_terminal:
            ending = "\n" if piece.endswith("\n") else ""
            piece = f"{LEARNT[0]}{piece.rstrip()}{LEARNT[1]}{ending}"
        text.append(piece, style="green" if learnt else "")
    text.rstrip()
    return text


def _print_lengths(found: Sequence[FileCheck], limit: int, *, tokens: bool) -> None:
    from headwater.llm.examples.own_data.check import quantiles

    table = Table(title=f"{'tokens' if tokens else 'words'} per example", title_justify="left")
    for column in ("", "min", "median", "p95", "max"):
        table.add_column(column, justify="right" if column else "left")
    rows = {
        "whole": [n for one in found for n in one.lengths],
        "learnt": [n for one in found for n in one.learnt],
    }
    for name, lengths in rows.items():
        if any(lengths):
            table.add_row(name, *(f"{value:,}" for value in quantiles(lengths)))
    console.print(table)
    if tokens:
        shortened, used = sum(one.shortened for one in found), sum(one.used for one in found)
        more = "; learnt is after that" if shortened else ""
        _say(f"{shortened:,} of {used:,} are longer than {limit:,} tokens and are shortened{more}.")


def _print_problems(found: Sequence[FileCheck]) -> None:
    reasons: collections.Counter[str] = collections.Counter()
    for one in found:
        reasons.update(one.skipped)
    if not reasons:
        return
    _say("dropped: " + ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common()))
    problems = [problem for one in found for problem in one.problems]
    for problem in problems[:PROBLEMS_LISTED]:
        _say(f"  {problem.file}, {problem.position}: {problem.reason}, {problem.detail}")
    if len(problems) > PROBLEMS_LISTED:
        _say(f"  and {len(problems) - PROBLEMS_LISTED:,} more; a run lists all in `unread/` of its artifact")


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
