"""`headwater init`: the recipe of every combination parses and has the expected stages; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headwater import cli
from headwater.commands.runs import init
from headwater.pipeline import stages
from headwater.recipe import Recipe, load
from tests.headwater.command import headwater
from tests.llm.models import foreign_model

CORPUS = ["acquire", "clean"]
NEW = ["tokenizer", "tokenize", "pretrain"]
TALK = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "It rained."}]}
PAIR = {"prompt": "Why?", "chosen": "It rained.", "rejected": "No."}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: pages of two kinds, conversations, pairs."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.html").write_text("<p>It rained.</p>")
    (tmp_path / "more.jsonl").write_text(json.dumps({"text": "It rained."}) + "\n")
    (tmp_path / "chats.jsonl").write_text(json.dumps(TALK) + "\n")
    (tmp_path / "my pairs.jsonl").write_text(json.dumps(PAIR) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


PAGES, CHATS = ("--pages", "pages"), ("--chats", "chats.jsonl")
PAIRS, SMOL = ("--preferences", "my pairs.jsonl"), ("--model", "smollm2")


def written(*options: str) -> Recipe:
    code, told = headwater("init", "mine.yaml", *options)
    assert code == 0, told
    text = Path("mine.yaml").read_text()
    assert len(text.splitlines()) <= 25
    return load("mine.yaml")


@pytest.mark.parametrize(
    ("options", "chain"),
    [
        (PAGES, CORPUS),
        ((*PAGES, *SMOL), [*CORPUS, "index", "base"]),
        ((*PAGES, "--scratch"), [*CORPUS, "index", *NEW]),
        ((*CHATS, *SMOL), ["base", "sft"]),
        ((*PAIRS, *SMOL), ["base", "dpo"]),
        ((*PAGES, *CHATS, *SMOL), [*CORPUS, "index", "base", "sft"]),
        ((*PAGES, *CHATS, *PAIRS, *SMOL), [*CORPUS, "index", "base", "sft", "dpo"]),
        ((*PAGES, *CHATS, *PAIRS, "--scratch"), [*CORPUS, "index", *NEW, "sft", "dpo"]),
        (SMOL, ["base"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_the_recipe_has_the_stages_that_what_is_there_allows(
    options: tuple[str, ...], chain: list[str]
) -> None:
    recipe = written(*options)
    assert [stage.name for stage in stages(recipe)] == chain
    if recipe.sft:
        assert recipe.sft.data is not None and recipe.sft.data[0].files == ("chats.jsonl",)
        assert recipe.sft.make == ()
    if recipe.dpo:
        assert recipe.dpo.data is not None and recipe.dpo.data[0].files == ("my pairs.jsonl",)


def test_names_stores_and_paths_stand_in_the_recipe_as_given(folder: Path) -> None:
    pages = ("--pages", "pages", "--pages", "more.jsonl")
    recipe = written(*pages, "--store", "s3://bucket/runs", "--name", "2024", *SMOL)
    assert (recipe.store, recipe.name) == ("s3://bucket/runs", "2024")
    assert recipe.acquire is not None
    kinds = [(source.kind, source.paths) for source in recipe.acquire.sources]  # type: ignore[union-attr]
    assert kinds == [("folder", ("pages",)), ("jsonl", ("more.jsonl",))]
    model = foreign_model(folder / "a model: #1", "llama").local("model")
    Path("mine.yaml").unlink()
    assert written(*CHATS, "--model", str(model)).base.model == str(model)  # type: ignore[union-attr]


def test_a_cluster_is_told_of_submit_and_of_files_that_nodes_need() -> None:
    _, told = headwater("init", *PAGES, "--store", "s3://bucket/runs")
    assert "headwater submit mine.yaml" in told and "every node reads your files" in told
    _, told = headwater("init", "here.yaml", *PAGES)
    assert "headwater run here.yaml" in told and "every node" not in told


def test_what_is_not_given_takes_defaults_and_is_told() -> None:
    code, told = headwater("init", *CHATS)
    assert code == 0
    assert (
        "taken by default: --pages none, --preferences none, --model smollm2, --store store, --name mine"
        in told
    )
    assert "headwater data check --recipe mine.yaml" in told
    assert "format: messages" in Path("mine.yaml").read_text()


def answered(monkeypatch: pytest.MonkeyPatch, lines: list[str], *options: str) -> Result:
    """The command at a terminal where a person types these lines."""
    monkeypatch.setattr(init, "is_terminal", lambda: True)
    return CliRunner().invoke(cli.app, ["init", *options], input="".join(f"{line}\n" for line in lines))


def test_a_terminal_is_asked_what_no_option_says(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["pages more.jsonl", "chats.jsonl", "'my pairs.jsonl'", "none", "y", "", ""]
    done = answered(monkeypatch, lines, "mine.yaml")
    assert done.exit_code == 0, done.output
    recipe = load("mine.yaml")
    assert [stage.name for stage in stages(recipe)] == [*CORPUS, "index", *NEW, "sft", "dpo"]
    assert (recipe.name, recipe.store) == ("mine", "store")


def test_nothing_is_asked_when_all_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    all_given = (*PAGES, *CHATS, *PAIRS, *SMOL, "--store", "s", "--name", "n")
    done = answered(monkeypatch, [], "mine.yaml", *all_given)
    assert done.exit_code == 0, done.output
    assert load("mine.yaml").name == "n"


def test_a_file_is_overwritten_with_force_alone() -> None:
    Path("mine.yaml").write_text("mine: 1\n")
    code, told = headwater("init", "mine.yaml", *PAGES)
    assert code == 1 and "mine.yaml: the file exists" in told and "--force" in told
    assert Path("mine.yaml").read_text() == "mine: 1\n"
    assert headwater("init", "mine.yaml", *PAGES, "--force")[0] == 0
    assert load("mine.yaml").acquire is not None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--pages", "nowhere"), "nowhere: no such file or folder (correct --pages)"),
        (("--pages", "pages/*.warc"), r"pages/*.warc: no such file or folder (correct --pages)"),
        (("--chats", "no.jsonl", *SMOL), "no.jsonl: no such file or folder (correct `--chats`)"),
        (("--model", "models/mine"), "models/mine: there is no such folder"),
        ((), "nothing to write a recipe for"),
        ((*CHATS, "--model", "none"), "there is no model to fine-tune"),
        ((*SMOL, *PAGES, "--scratch"), "give one of them"),
        ((*CHATS, "--scratch"), "--scratch has no pages to train on"),
        (("--chats", "more.jsonl", *SMOL), "more.jsonl"),
    ],
)
def test_what_cannot_be_used_is_named_and_nothing_is_written(options: tuple[str, ...], told: str) -> None:
    code, said = headwater("init", "mine.yaml", *options)
    assert code == 1 and told in said, said
    assert not Path("mine.yaml").exists()


def test_a_recipe_that_does_not_parse_is_not_written() -> None:
    code, told = headwater("init", "mine.yaml", *PAGES, "--name", "a/b")
    assert code == 1 and "name: " in told
    assert not Path("mine.yaml").exists()


def test_the_name_of_a_file_becomes_a_runs_name() -> None:
    assert [init._name_of(Path(name)) for name in ("mine.yaml", "my pages.yaml", "_.yaml")] == [
        "mine",
        "my-pages",
        "mine",
    ]
