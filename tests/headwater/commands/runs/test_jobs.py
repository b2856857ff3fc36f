"""Runs as jobs of a cluster started by hand: submitted, joined, followed, killed, stopped, resumed."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from headwater.cluster.runtime.run_record import Record, read_record
from headwater.cluster.storage.store import Store
from headwater.cluster.versions import commit
from tests.cluster.heads import ROOT, Head, head
from tests.data_pipeline.corpora import article
from tests.headwater.command import several_in_a_process
from tests.ports import free_ports

pytestmark = pytest.mark.ray
SECRET = "a-word-that-nobody-may-read"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Head]:
    with head(HEADWATER_TEST_SECRET=SECRET) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "pages.jsonl"
    rows = [{"text": article(n), "url": f"https://example.org/{n}", "title": f"Page {n}"} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def recipe(tmp_path: Path, pages: Path) -> Path:
    """A run whose pretraining takes longer than any test waits."""
    return written(tmp_path, pages)


def written(folder: Path, pages: Path) -> Path:
    train = {"steps": 100_000, "batch": 4, "micro_batch": 4, "workers": 1, "checkpoint_every": 5}
    content = {
        "name": folder.name.replace("_", "-").strip("-"),
        "store": str(folder / "store"),
        "acquire": {"sources": [{"kind": "jsonl", "paths": [str(pages)]}]},
        "clean": {},
        "tokenizer": {"vocab_size": 400},
        "tokenize": {"row_length": 32, "validation_share": 0.1},
        "pretrain": train
        | {"model": {"depth": 1, "width": 64}, "precision": "fp32", "evaluate_every": 50_000},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run_of(recipe: Path) -> Record | None:
    content = yaml.safe_load(recipe.read_text())
    return read_record(Store(content["store"]), content["name"])


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.2)


def pretraining_step(recipe: Path) -> int:
    record = run_of(recipe)
    progress = record.progress if record and record.state == "running" else None
    return progress.done if progress and progress.label == "pretrain" else 0


SERVICES = (
    *("DashboardAgent", "RuntimeEnvAgent", "IDLE"),  # of every node
    *("_AutoscalingCoordinatorActor", "ActorLocationTracker", "_StatsActor"),  # Ray Data's, once a cluster
)


def processes_of_jobs(cluster: Head) -> list[str]:
    """What lives below the head and is no service of the cluster itself: drivers, actors, workers."""
    found = []
    for process in psutil.Process(cluster.process.pid).children(recursive=True):
        try:
            line = " ".join(process.cmdline()).strip()
        except psutil.NoSuchProcess:
            continue
        of_job = re.search(r"^ray::|-m headwater", line)
        if of_job and line.removeprefix("ray::") not in SERVICES:
            found.append(f"{process.pid} {line[:120]}")
    return found


def drivers(recipe: Path) -> list[psutil.Process]:
    """The processes that run the recipe's stages."""
    record = run_of(recipe)
    return [psutil.Process(record.pid)] if record and psutil.pid_exists(record.pid) else []


def submit(cluster: Head, recipe: Path, *more: str, **changes: str) -> tuple[int, str]:
    return cluster.run("submit", str(recipe), "--dashboard", cluster.dashboard, *more, **changes)


def job_id(output: str) -> str:
    found = re.search(r"^(\S+) (submitted|joined)", output, re.MULTILINE)
    assert found, output
    return found[1]


@pytest.mark.soak  # `make test` has the job that a missing secret ends, and jobs/ without a cluster
def test_a_job_is_followed_live_and_its_secret_is_passed_by_name_alone(cluster: Head, recipe: Path) -> None:
    process = cluster.command(
        *("submit", str(recipe), "--until", "clean", "--dashboard", cluster.dashboard),
        *("--secret", "HEADWATER_TEST_SECRET"),
    )
    assert process.stdout is not None
    lines, alive_at_first_stage = [], False
    for line in process.stdout:
        lines.append(line)
        if "acquire" in line and "✓" in line:
            listed = cluster.run("jobs", "list", "--json", "--dashboard", cluster.dashboard)[1]
            alive_at_first_stage = "RUNNING" in {job["status"] for job in json.loads(listed)["jobs"]}
    output = "".join(lines)
    assert process.wait(60) == 0, output
    assert alive_at_first_stage, "the log came only when the job had ended"
    assert "succeeded" in output
    assert re.search(r"2/5 clean", output)
    identifier = job_id(output)
    described = _as_ray_describes_them(cluster)
    assert identifier in described
    told = json.loads(
        cluster.run("jobs", "status", identifier, "--json", "--dashboard", cluster.dashboard)[1]
    )
    assert (told["job"]["status"], told["run"]["state"]) == ("SUCCEEDED", "finished")
    assert told["run"]["commit"] == commit()  # of the checkout that it was submitted from
    written = [path.read_bytes() for path in recipe.parent.rglob("*") if path.is_file()]
    assert SECRET not in described + output
    assert not any(SECRET.encode() in content for content in written)


def _as_ray_describes_them(cluster: Head) -> str:
    """All jobs with their environments and metadata, as anybody on the cluster can read them."""
    code = (
        "import json; from ray.job_submission import JobSubmissionClient; "
        f"jobs = JobSubmissionClient('{cluster.dashboard}').list_jobs(); "
        "print(json.dumps([job.dict() for job in jobs], default=str))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=cluster.environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_missing_secret_ends_the_job_at_once_with_its_name(cluster: Head, recipe: Path) -> None:
    code, output = submit(cluster, recipe, "--until", "acquire", "--secret", "NOWHERE_SET")
    assert code == 1
    assert "NOWHERE_SET is not set on this node" in output
    assert "Traceback" not in output


@pytest.mark.soak
def test_a_job_joined_killed_stopped_and_submitted_again(cluster: Head, recipe: Path) -> None:
    """A job's life cycle: a second submission joins it, a killed driver resumes, stop leaves no processes."""
    until = ("--until", "pretrain", "--detach")
    first = job_id(submit(cluster, recipe, *until)[1])
    code, output = submit(cluster, recipe, *until)
    assert code == 0 and f"{first} joined" in output

    wait_for(lambda: pretraining_step(recipe) > 6, "pretraining has left its first checkpoint behind")
    (driver,) = drivers(recipe)
    driver.kill()
    wait_for(lambda: bool(drivers(recipe)) and drivers(recipe)[0].pid != driver.pid, "the driver is back")
    wait_for(lambda: pretraining_step(recipe) > 6, "pretraining resumes")
    log = cluster.run("jobs", "logs", first, "--dashboard", cluster.dashboard)[1]
    assert "the driver was killed by SIGKILL; restarting it (1 of 3)" in log
    after_restart = log[log.index("restarting it") :]
    assert all(re.search(rf"{stage} +found", after_restart) for stage in ("acquire", "clean", "tokenize"))
    status = cluster.run("jobs", "status", first, "--dashboard", cluster.dashboard)[1]
    assert "running: pretrain pretrain" in status

    code, output = cluster.run("jobs", "stop", first, "--dashboard", cluster.dashboard)
    assert code == 0 and "stopped" in output
    deadline = time.monotonic() + 10
    while left := processes_of_jobs(cluster):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.2)

    second = job_id(submit(cluster, recipe, *until)[1])
    assert second != first
    wait_for(lambda: pretraining_step(recipe) > 11, "the new job resumes from a checkpoint")
    log = cluster.run("jobs", "logs", second, "--dashboard", cluster.dashboard)[1]
    assert re.search(r"tokenize +found", log)
    assert cluster.run("jobs", "stop", second, "--dashboard", cluster.dashboard)[0] == 0


class CutWire:
    """A TCP relay to the dashboard whose connections can all be cut."""

    def __init__(self, target: str) -> None:
        host, port = target.removeprefix("http://").split(":")
        self._target = (host, int(port))
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
                upstream = socket.create_connection(self._target)
            except OSError:
                return
            self._open += [client, upstream]
            for pair in ((client, upstream), (upstream, client)):
                threading.Thread(target=self._relay, args=pair, daemon=True).start()

    @staticmethod
    def _relay(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            return
        finally:
            for end in (source, target):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def cut(self) -> int:
        """Break every connection that is open; returns how many there were."""
        broken = 0
        while self._open:
            end = self._open.pop()
            try:
                end.shutdown(socket.SHUT_RDWR)
                broken += 1
            except OSError:
                pass
            end.close()
        return broken

    def close(self) -> None:
        self._server.close()
        self.cut()


@pytest.mark.soak
def test_following_survives_a_cut_connection_and_repeats_nothing(cluster: Head, recipe: Path) -> None:
    wire = CutWire(cluster.dashboard)
    try:
        process = cluster.command("submit", str(recipe), "--until", "tokenize", "--dashboard", wire.url)
        assert process.stdout is not None
        lines, cuts = [], 0
        for line in process.stdout:
            lines.append(line)
            if "✓" in line and cuts < 2:
                cuts += wire.cut() > 0
        output = "".join(lines)
        assert process.wait(60) == 0, output
    finally:
        wire.close()
    assert cuts == 2
    log = cluster.run("jobs", "logs", job_id(output), "--dashboard", cluster.dashboard)[1]
    followed = output.split("\n", 1)[1].rsplit("\n", 2)[0]
    assert followed.strip() == log.strip()


WRONG = {
    "--env AWS_SECRET_ACCESS_KEY=abc": "this looks like a secret",
    "--secret NAME=abc": "takes only the name of a variable",
    "--set store=store": "a relative folder would be lost with the job",
    "--set pretrain.stepz=4": "no such key; did you mean steps?",
    "--until pretrian": "unknown stage pretrian",
    "--dashboard ray://127.0.0.1:10001": "submitted to the head's dashboard",
}
"""Options of a submission → what is said of them."""


@pytest.fixture(scope="module")
def told(
    cluster: Head, pages: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, ...], tuple[int, str]]:
    """Command and what it is about → exit code and output, of commands that start nothing: in one process."""
    folder = tmp_path_factory.mktemp("told")
    recipe, wrong = written(folder, pages), (f"http://127.0.0.1:{free_ports(1)[0]}", f"http://{cluster.gcs}")
    commands: dict[tuple[str, ...], list[object]] = {
        ("submit", address): ["submit", recipe, "--dashboard", address] for address in wrong
    }
    for name in ("status", "logs", "stop"):
        commands[name, "nothing-1"] = ["jobs", name, "nothing-1", "--dashboard", cluster.dashboard]
    for options in WRONG:
        commands["wrong", options] = ["submit", recipe, "--dashboard", cluster.dashboard, *options.split()]
    commands["status",] = ["status", "--store", folder, "--dashboard", cluster.dashboard]
    _, said = several_in_a_process(*commands.values(), cwd=ROOT, **cluster.environment)
    return dict(zip(commands, said, strict=True))


@pytest.mark.parametrize("options", WRONG)
def test_a_wrong_submission_is_one_line_with_what_to_do(
    told: dict[tuple[str, ...], tuple[int, str]], options: str
) -> None:
    is_one_line(*told["wrong", options], WRONG[options])


def test_a_submission_with_a_wrong_token_is_one_line_with_what_to_do(cluster: Head, recipe: Path) -> None:
    is_one_line(*submit(cluster, recipe, RAY_AUTH_TOKEN="0" * 32), "the cluster refuses this token")


def is_one_line(code: int, output: str, message: str) -> None:
    assert code == 1
    assert message in output
    assert len(output.strip().splitlines()) == 1
    assert "abc" not in output


def test_a_head_without_its_dashboard_and_a_wrong_address_are_named(
    told: dict[tuple[str, ...], tuple[int, str]],
) -> None:
    submitted = [(command[1], said) for command, said in told.items() if command[0] == "submit"]
    assert len(submitted) == 2
    for address, (code, output) in submitted:
        assert code == 1
        assert re.fullmatch(
            rf"error {address}: no Ray dashboard answers \(.*with its dashboard\)", output.strip()
        )


@pytest.mark.parametrize("command", ["status", "logs", "stop"])
def test_a_job_that_does_not_exist_is_named(
    told: dict[tuple[str, ...], tuple[int, str]], command: str
) -> None:
    code, output = told[command, "nothing-1"]
    assert code == 1 and "nothing-1: no such job" in output


def test_status_shows_the_nodes_and_what_lives_on_them(
    told: dict[tuple[str, ...], tuple[int, str]],
) -> None:
    code, output = told["status",]
    assert code == 0
    assert re.search(r"\(head\) +│ alive", output), output


def test_doctor_examines_the_nodes_of_a_cluster(cluster: Head) -> None:
    code, output = cluster.run("doctor", "--address", cluster.gcs)
    assert code == 0, output
    assert re.search(r"✓ +node [0-9.]+ +2 CPUs.*same versions", output), output


@pytest.mark.soak
def test_a_run_keeps_to_its_cluster_where_the_machine_has_two(cluster: Head, recipe: Path) -> None:
    with head():
        code, output = cluster.run("run", str(recipe), "--until", "acquire", "--address", cluster.gcs)
    assert code == 0, output
