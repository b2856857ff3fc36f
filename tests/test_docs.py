"""The documents are true: links and paths resolve, examples run, the generated page is up to date."""

from __future__ import annotations

import importlib.util
import re
import textwrap
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer.main

from headwater import cli
from headwater.pipeline import stages
from headwater.recipe import load
from tests.headwater.command import headwater

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
ROOMS = "benchmarks|cluster|data_pipeline|docs|headwater|k8s|llm|recipes|serving|tests"
PATH = re.compile(rf"(?:{ROOMS})/[\w./-]*")
MADE_BY_THE_READER = {"k8s/overlays/mine/kustomization.yaml"}

EXAMPLES = re.findall(
    r"^## (.+?)$.*?^```python\n(.*?)^```$", (DOCS / "extending.md").read_text(), re.MULTILINE | re.DOTALL
)


def _without_code(text: str) -> str:
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^    .*$", "", text, flags=re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """What headings are linked by: lower case, marks dropped, blanks as hyphens."""
    headings = re.findall(r"^#+ (.*)$", _without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text())):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = unquote(target).partition("#")
        other = page.parent / file if file else page
        if not other.exists() or (anchor and anchor not in _anchors(other)):
            missing.append(target)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_paths_of_the_repository_in_backticks_exist(page: Path) -> None:
    named = set(re.findall(r"`([^`\s]+)`", _without_code(page.read_text())))
    paths = {name for name in named if PATH.fullmatch(name)} - MADE_BY_THE_READER
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_recipes_page_is_what_the_settings_say() -> None:
    spec = importlib.util.spec_from_file_location("generate_recipes", DOCS / "generate_recipes.py")
    assert spec is not None and spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert (DOCS / "recipes.md").read_text() == generator.page(), "run `make docs-recipes`"


@pytest.mark.parametrize("code", [code for _, code in EXAMPLES], ids=[title for title, _ in EXAMPLES])
def test_example_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(code.splitlines()) <= 40
    exec(compile(code, "docs/extending.md", "exec"), {"__name__": "example"})


def test_the_tutorials_recipe_is_what_its_command_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (DOCS / "tutorial.md").read_text()
    (block,) = re.findall(r"^    name: mine .*\n(?:    .*\n)+", page, re.MULTILINE)
    (talk,) = re.findall(r'^    (\{"messages".*)$', page, re.MULTILINE)
    commands = re.findall(r"^    headwater (init .*)$", page, re.MULTILINE)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.html").write_text("<p>It rained.</p>")
    (tmp_path / "chats.jsonl").write_text(talk + "\n")
    monkeypatch.chdir(tmp_path)
    for command in commands:
        code, told = headwater(*command.split())
        assert code == 0, told
    assert Path("mine.yaml").read_text() == textwrap.dedent(block)
    assert len(block.splitlines()) <= 15
    assert [stage.name for stage in stages(load("mine.yaml"))] == ["acquire", "clean", "index", "base", "sft"]
    assert load("scratch.yaml").pretrain is not None


def test_the_tutorial_takes_at_most_ten_commands() -> None:
    steps = re.findall(r"^\*\*(\d+)\. ", (DOCS / "tutorial.md").read_text(), re.MULTILINE)
    assert [int(number) for number in steps] == list(range(1, len(steps) + 1)) and len(steps) <= 10


def test_every_extension_has_an_example() -> None:
    wanted = ["A filter", "A source", "A loss", "A verifier", "A task", "A task of several turns"]
    assert [title for title, _ in EXAMPLES] == [*wanted, "A reward", "A retriever"]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_have_options_that_exist(page: Path) -> None:
    """Every `headwater …` line of an indented block names a command, and options that it has."""
    wrong = []
    text = re.sub(r"\\\n\s+", " ", page.read_text())
    for line in re.findall(r"^    (?:\w+=\S+ )?headwater (.*)$", text, re.MULTILINE):
        words = line.split("  #")[0].split(" | kubectl")[0].split()
        command = typer.main.get_command(cli.app)
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        used = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        if hasattr(command, "commands") and words and "|" not in words:
            wrong.append(line)
        wrong += sorted(f"{line}: {option}" for option in used - known - {"--help"})
    assert wrong == []
