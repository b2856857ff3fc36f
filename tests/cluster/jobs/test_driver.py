"""A killed driver is restarted; one that exits or is asked to stop is not."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.jobs.driver import check_environment, check_packages, supervise
from headwater.cluster.jobs.package import PACKAGES, pinned_requirements, working_directory

ROOT = Path(__file__).resolve().parents[3]


def counting(folder: Path, ending: str) -> list[str]:
    """A program that adds a line to `starts` and then ends as told."""
    code = f"open({str(folder / 'starts')!r}, 'a').write('x'); import os, sys, time; {ending}"
    return [sys.executable, "-c", code]


def starts(folder: Path) -> int:
    path = folder / "starts"
    return len(path.read_text()) if path.exists() else 0


def supervised(*options: str, command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "headwater.cluster.jobs.driver", *options, "--", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> object:
    held = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in held.items():
        signal.signal(number, handler)


def test_a_driver_that_exits_is_not_restarted(tmp_path: Path) -> None:
    assert supervise(counting(tmp_path, "sys.exit(3)"), restarts=5, delay=0) == 3
    assert starts(tmp_path) == 1


def test_a_killed_driver_is_started_again_and_its_end_counts(tmp_path: Path) -> None:
    second_time = f"len(open({str(tmp_path / 'starts')!r}).read()) == 3 and sys.exit(0)"
    assert supervise(counting(tmp_path, f"{second_time}; os.kill(os.getpid(), 9)"), restarts=5, delay=0) == 0
    assert starts(tmp_path) == 3


def test_restarts_are_bounded_and_the_exit_code_names_the_signal(tmp_path: Path) -> None:
    assert supervise(counting(tmp_path, "os.kill(os.getpid(), 9)"), restarts=2, delay=0) == 128 + 9
    assert starts(tmp_path) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_termination_signal_reaches_the_driver_without_a_restart(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = supervised("--restarts", "5", command=counting(tmp_path, "time.sleep(60)"))
    while not starts(tmp_path):
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(20) != 0
    assert starts(tmp_path) == 1


def test_a_secret_that_is_not_there_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    process = supervised("--need-env", "NOT_SET_ANYWHERE", command=counting(tmp_path, "pass"))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "NOT_SET_ANYWHERE is not set on this node" in output
    assert starts(tmp_path) == 0
    check_environment(["PATH"], os.environ)


def test_other_versions_on_the_node_are_named_and_other_builds_of_the_same_are_fine() -> None:
    torch = importlib.metadata.version("torch").partition("+")[0]
    check_packages({"torch": f"{torch}+cu130"})
    with pytest.raises(HeadwaterError, match=r"torch [0-9.]+\S* instead of 1\.0.*--install"):
        check_packages({"torch": "1.0"})
    with pytest.raises(HeadwaterError, match="no-such-package nothing instead of 2"):
        check_packages({"no-such-package": "2"})


def test_the_working_directory_of_a_job_runs_without_the_checkout(tmp_path: Path) -> None:
    modules = ("cluster", "data_pipeline", "llm", "serving", "headwater")
    with working_directory(modules, {"recipe.yaml": "name: x\n"}) as folder:
        assert (folder / PACKAGES).exists() and (folder / "serving/console/index.html").exists()
        assert not list(folder.rglob("__pycache__"))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-c", "import headwater.cli; print(headwater.__file__)"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert str(folder) in done.stdout


def test_pinned_requirements_are_exact_and_complete() -> None:
    try:
        pins = pinned_requirements()
    except HeadwaterError as error:
        pytest.skip(str(error))
    names = {pin.split("==")[0] for pin in pins}
    assert {"ray", "torch", "deepspeed", "fastapi", "lxml", "botocore"} <= names
    assert "pytest" not in names
    assert all("==" in pin for pin in pins)
