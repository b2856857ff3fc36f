"""Errors print as one line with a fix, without traceback, and exit non-zero."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from headwater.cluster.storage import lease
from headwater.cluster.storage.store import Store
from tests.data_pipeline.corpora import article
from tests.headwater.command import HERE, headwater, in_a_process
from tests.headwater.sections import CHAIN
from tests.ports import free_ports


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    pages = tmp_path / "pages.jsonl"
    rows = [{"text": article(n), "url": f"https://example.org/{n}"} for n in range(300)]
    pages.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "recipe.yaml"
    source = {"kind": "jsonl", "paths": [str(pages)]}
    path.write_text(yaml.safe_dump(CHAIN | {"name": "errors", "acquire": {"sources": [source]}}))
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 100 kB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def error_line(output: str) -> str:
    """The one line that begins with `error`; nothing follows it."""
    lines = output.strip().splitlines()
    assert lines[-1].startswith("error "), output
    assert "Traceback" not in output
    return lines[-1]


def test_a_full_disk_is_reported_and_the_run_resumes_once_there_is_space(
    ray_cluster: None, recipe: Path, small_disk: Path
) -> None:
    run = ("run", str(recipe), "--set", f"store={small_disk}/store", "--until", "acquire")
    code, output = headwater(*run)
    assert code == 1
    assert "the disk is full (free space; the same command resumes from here)" in error_line(output)
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    code, output = headwater(*run)
    assert code == 0, output


def test_s3_without_the_right_to_write_is_named_before_any_work(recipe: Path, s3_server: str) -> None:
    code, output = in_a_process(
        *("run", str(recipe), "--set", "store=s3://corpus/forbidden"),
        AWS_ACCESS_KEY_ID="headwater-reader",
        AWS_SECRET_ACCESS_KEY="headwater-reader-secret",
    )
    assert code == 1
    line = error_line(output)
    assert "s3://corpus/forbidden: the store cannot be written" in line and "write permission" in line


def test_a_second_run_on_a_store_in_s3_names_the_first(
    recipe: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.5)
    store = "s3://corpus/two-runs"
    with Store(store).locked("first"):
        code, output = headwater("run", str(recipe), "--set", f"store={store}", "--until", "acquire")
    assert code == 1
    assert f"{store}: another run is using this store: run first on " in error_line(output)


def test_an_unreachable_cluster_address_is_reported(recipe: Path, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    code, output = in_a_process(
        *("run", str(recipe), "--set", f"store={tmp_path}/store", "--address", address, "--until", "acquire")
    )
    assert code == 1
    assert f"{address}: cannot reach a Ray cluster" in error_line(output)


def test_addresses_that_no_driver_can_join_are_refused_with_what_can(recipe: Path, tmp_path: Path) -> None:
    for address in ("ray://127.0.0.1:10001", "http://127.0.0.1:8265"):
        code, output = headwater(
            *("run", str(recipe), "--set", f"store={tmp_path}/store", "--until", "acquire"),
            *("--address", address),
        )
        assert code == 1
        line = error_line(output)
        assert f"{address}: {address.partition(':')[0]}:// is not an address" in line
        assert "pass auto or HEAD:6379" in line and "headwater submit --dashboard" in line
    code, output = headwater("run", str(recipe), "--address", "auto", *HERE)
    assert code == 1 and "auto: 0 workers do the work in this process" in error_line(output)


@pytest.mark.parametrize("command", [("show",), ("status",), ("runs", "list"), ("runs", "diff", "a", "b")])
def test_a_store_that_is_not_there_is_one_error(
    command: tuple[str, ...], s3_server: str, tmp_path: Path
) -> None:
    for store in (str(tmp_path / "nothing"), "s3://no-such-bucket/x", "s3://corpus/no-such-prefix"):
        code, output = headwater(*command, "--store", store)
        assert code == 1
        assert f"{store}: no such store" in error_line(output)


def test_a_store_that_does_not_answer_is_one_error(s3_server: str) -> None:
    code, output = in_a_process(
        "status", "--store", "s3://corpus/x", AWS_ENDPOINT_URL=s3_server, AWS_SECRET_ACCESS_KEY="wrong"
    )
    assert code == 1
    assert "s3://corpus/x: the store cannot be read" in error_line(output)


def test_a_dashboard_may_still_be_called_address() -> None:
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    for option in ("--dashboard", "--address"):
        code, output = headwater("jobs", "list", option, nowhere)
        assert code == 1
        assert f"{nowhere}: no Ray dashboard answers" in error_line(output)
    code, output = headwater("jobs", "list", HEADWATER_ADDRESS=nowhere)
    assert code == 1 and f"{nowhere}: no Ray dashboard" in output
    _, output = headwater("jobs", "list", "--help")
    assert "--dashboard" in output and "--address" not in output


def test_a_typo_in_a_recipe_is_one_line_and_debug_shows_the_traceback(recipe: Path) -> None:
    code, output = headwater("run", str(recipe), "--set", "pretrain.stepz=3")
    assert code == 1 and "did you mean steps?" in error_line(output)
    code, output = headwater("--debug", "run", str(recipe), "--set", "pretrain.stepz=3")
    assert code == 1 and "Traceback" in output


def test_doctor_fails_where_something_is_an_error_and_says_what_to_do(s3_server: str) -> None:
    code, output = headwater("doctor", "--store", "s3://no-such-bucket/prefix")
    assert code == 1
    assert "✗" in output and "→ create the bucket no-such-bucket" in output
    code, output = headwater("doctor", "--store", "s3://no-such-bucket/prefix", "--json")
    found = json.loads(output)
    assert code == 1 and found["ok"] is False
    assert {"what": "S3 find the bucket", "state": "error"}.items() <= found["findings"][-1].items()
    code, output = headwater("doctor", "--store", "s3://corpus/prefix")
    assert code == 0, output
