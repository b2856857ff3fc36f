"""What works without the extras, and what is said where one is missing."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.extras import EXTRAS, missing_extra, require
from tests.cluster.heads import ROOT
from tests.data_pipeline.clean.test_clean import article
from tests.headwater.command import in_a_process, several_in_a_process
from tests.headwater.sections import CHAIN

HIDDEN = sorted({name for packages in EXTRAS.values() for name in packages})
HIDING = f"""
import importlib.machinery

find = importlib.machinery.PathFinder.find_spec

def found(name, path=None, target=None):
    return None if name.partition(".")[0] in {HIDDEN} else find(name, path, target)

importlib.machinery.PathFinder.find_spec = found

import importlib.metadata

known = importlib.metadata.Distribution.from_name.__func__

def from_name(cls, name):
    if name in {HIDDEN}:
        raise importlib.metadata.PackageNotFoundError(name)
    return known(cls, name)

importlib.metadata.Distribution.from_name = classmethod(from_name)
"""
"""A sitecustomize.py: Python runs it at every start, in Ray's workers too."""


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of processes in which nothing that an extra installs can be imported."""
    hidden = tmp_path_factory.mktemp("hidden")
    (hidden / "sitecustomize.py").write_text(HIDING)
    return {"PYTHONPATH": os.pathsep.join([str(hidden), str(ROOT)])}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "pages.jsonl"
    rows = [{"text": article(n), "url": f"https://example.org/{n}"} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.soak, id="1 of Ray")])
def test_clean_needs_no_extra(core: dict[str, str], pages: Path, tmp_path: Path, workers: str) -> None:
    code, output = in_a_process(
        *("clean", pages, "-o", tmp_path / "clean", "--max-workers", workers), cwd=tmp_path, **core
    )
    assert code == 0, output
    assert "of 40 documents kept" in output
    assert (tmp_path / "clean" / "funnel.png").exists()


RUNS = {"run recipe.yaml": "train,serve", "run recipe.yaml --set index=null": "train"}
"""Command → the extras that it needs."""
COMMANDS = {
    "serve recipe.yaml": "serve",
    "batch in.jsonl out.jsonl --model model": "serve",
    "plan quickstart": "train",
}


@pytest.fixture(scope="module")
def folder(pages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a recipe lies and its store would."""
    folder = tmp_path_factory.mktemp("core")
    source = {"kind": "jsonl", "paths": [str(pages)]}
    recipe = CHAIN | {"name": "core", "acquire": {"sources": [source]}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="module")
def said(core: dict[str, str], folder: Path) -> dict[str, tuple[int, str]]:
    """Command → its exit code and output, all in one process without extras."""
    commands = [*RUNS, *COMMANDS, "doctor"]
    _, said = several_in_a_process(*map(str.split, commands), cwd=folder, **core)
    return dict(zip(commands, said, strict=True))


@pytest.mark.parametrize("command", RUNS)
def test_a_run_without_its_extras_says_so_before_its_first_stage(
    said: dict[str, tuple[int, str]], folder: Path, command: str
) -> None:
    code, output = said[command]
    assert code == 1
    assert f"pip install 'headwater[{RUNS[command]}]'" in output.splitlines()[-1]
    assert "torch" in output.splitlines()[-1]
    assert not (folder / "store" / "acquire").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_its_extra_says_what_to_install(
    said: dict[str, tuple[int, str]], command: str
) -> None:
    code, output = said[command]
    assert code == 1
    assert re.fullmatch(
        r"error this needs packages that are not installed: \w.*"
        rf"\(pip install 'headwater\[{COMMANDS[command]}\]'\)",
        output.strip().splitlines()[-1],
    )
    assert "Traceback" not in output


def test_the_doctor_names_the_extras_of_what_is_missing(said: dict[str, tuple[int, str]]) -> None:
    _, output = said["doctor"]
    for package in ("torch", "deepspeed", "transformers"):
        assert re.search(
            rf"! +{package} +not installed *\n +→ pip install 'headwater\[train,serve\]'", output
        )
    assert "torch is not installed" in output.partition("GPUs")[2]


def test_the_table_of_extras_is_that_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, packages in EXTRAS.items():
        declared = {Requirement(line).name for line in project["optional-dependencies"][extra]}
        declared -= {
            "ray",
            "prometheus-client",
        }  # Ray's dashboard needs the latter, so it is part of the core
        imported = {canonicalize_name(name) for name in packages} - {"fastapi"}  # comes with ray[serve]
        assert imported == {canonicalize_name(name) for name in declared}
        if extra != "ocr":  # which `tests` leaves out
            require(extra)


def test_only_imports_of_what_an_extra_installs_are_explained() -> None:
    error = missing_extra(ModuleNotFoundError("No module named 'lancedb.x'", name="lancedb.x"))
    assert isinstance(error, HeadwaterError) and error.fix == "pip install 'headwater[serve]'"
    assert missing_extra(ModuleNotFoundError("No module named 'no_such'", name="no_such")) is None
    assert missing_extra(ValueError("torch")) is None
