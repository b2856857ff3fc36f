"""The built package works from any folder, without the checkout: code, recipes, manifests, constraints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

import headwater
from tests.headwater.command import headwater as headwater_here
from tests.headwater.command import several_in_a_process
from tests.k8s.conftest import QUICKSTART, ROOT
from tests.k8s.conftest import kubectl as kubectl  # the fixture

ROOMS = ("cluster", "data_pipeline", "llm", "serving", "headwater", "recipes", "k8s")
FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt")


def _run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel built from a copy of the checkout, and one from the source archive of it."""
    checkout = tmp_path_factory.mktemp("checkout")
    for room in ROOMS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / room, checkout / room, symlinks=True, ignore=ignored)
    for name in FILES:
        shutil.copy2(ROOT / name, checkout / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    code = "from setuptools import build_meta; build_meta.build_sdist('archive')"
    _run(sys.executable, "-c", code, cwd=checkout)
    (archive,) = (checkout / "archive").glob("*.tar.gz")
    _run(*build, "--wheel-dir", "from-archive", archive, cwd=checkout)
    shutil.rmtree(checkout / "headwater.egg-info")
    _run(*build, "--wheel-dir", "from-checkout", ".", cwd=checkout)
    (direct,), (indirect,) = (checkout.glob(f"from-{source}/*.whl") for source in ("checkout", "archive"))
    return direct, indirect


@pytest.fixture(scope="module")
def installed(wheels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package alone; the packages that it needs come from this environment."""
    target = tmp_path_factory.mktemp("installed")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--target",
        target,
    ]
    _run(*install, wheels[0], cwd=target)
    return target


def _headwater(installed: Path, folder: Path, *commands: Sequence[str]) -> list[str]:
    """What the installed package's commands print."""
    place, said = several_in_a_process(*commands, cwd=folder, PYTHONPATH=str(installed))
    assert place.startswith(str(installed))
    assert not any(code for code, _ in said), said
    return [output for _, output in said]


def test_the_wheel_holds_headwater_alone_with_every_module_and_every_data_file(
    wheels: tuple[Path, Path],
) -> None:
    direct, indirect = (zipfile.ZipFile(wheel).namelist() for wheel in wheels)
    assert sorted(direct) == sorted(indirect)
    assert {name.split("/")[0] for name in direct} == {
        "headwater",
        f"headwater-{headwater.__version__}.dist-info",
    }
    wanted = {"headwater/data/constraints.txt", "headwater/py.typed"}
    for room in ("cluster", "data_pipeline", "llm", "serving"):
        files = (path for path in (ROOT / room).rglob("*") if path.is_file())
        wanted |= {f"headwater/{path.relative_to(ROOT)}" for path in files if "__pycache__" not in path.parts}
    for folder in ("recipes", "k8s"):
        files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
        wanted |= {f"headwater/data/{path.relative_to(ROOT)}" for path in files}
    assert wanted - set(direct) == set()


def test_recipes_are_listed_printed_and_found_by_name_from_anywhere(installed: Path, tmp_path: Path) -> None:
    commands = ["--version"], ["recipes"], ["recipes", "quickstart"], ["constraints"]
    version, recipes, quickstart, constraints = _headwater(installed, tmp_path, *commands)
    assert version == f"headwater {headwater.__version__}\n"
    listed = dict(line.split(maxsplit=1) for line in recipes.splitlines()[1:])
    files = sorted(QUICKSTART.parent.glob("*.yaml"))
    assert list(listed) == [path.stem for path in files]
    for path in files:
        assert f"# {listed[path.stem]}".startswith(path.read_text().splitlines()[0])
    assert quickstart == QUICKSTART.read_text()
    assert constraints == (ROOT / "constraints.txt").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_packaged_recipe_is_rendered_for_kubernetes_as_from_the_checkout(
    installed: Path, tmp_path: Path, kubectl: Path
) -> None:
    options = ["--set", "store=s3://bucket/runs", "--overlay", "gpu-64", "--queue", "team"]
    code, here = headwater_here("k8s", "render", QUICKSTART, *options)
    (there,) = _headwater(installed, tmp_path, ["k8s", "render", "quickstart", *options])
    assert code == 0 and there == here
    assert "RayJob" in {manifest["kind"] for manifest in yaml.safe_load_all(there)}


def test_the_version_is_written_in_one_place_and_the_images_follow_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    assert f"## [{headwater.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    images = yaml.safe_load((ROOT / "k8s" / "components" / "images" / "kustomization.yaml").read_text())
    tags = {image["newTag"] for image in images["images"]}
    assert tags == {f"{headwater.__version__}-cpu", f"{headwater.__version__}-cuda"}
