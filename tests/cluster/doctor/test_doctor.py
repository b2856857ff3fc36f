"""Checks of `headwater doctor` on a real machine, a real S3 server and broken set-ups."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from headwater.cluster.doctor import checks
from headwater.cluster.doctor.checks import Finding


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def test_this_machine_is_described_and_nothing_is_an_error() -> None:
    found = by_name(checks.machine())
    assert {
        "Python",
        "packages",
        "cores",
        "memory",
        "GPUs",
        "space for temporary files",
        "open files",
    } <= set(found)
    assert [finding for finding in found.values() if finding.state == "error"] == []
    assert "torch 2." in found["packages"].found


def test_a_port_that_is_taken_is_found_with_what_it_is_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (taken,) = checks.ports({port: "the endpoint"})
    assert taken.state == "warning" and "the endpoint" in taken.found and "another port" in taken.fix
    (free,) = checks.ports({port: "the endpoint"})
    assert free.state == "ok"


def test_too_little_space_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "DISK_GB", 1e9)
    found = by_name(checks.store(str(tmp_path / "new" / "store")))
    assert found["store"].state == "ok"
    assert found["space for store"].state == "warning"
    assert "GB free" in found["space for store"].fix


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="this system has no /proc")
def test_a_store_that_cannot_be_written_is_an_error_even_if_its_permissions_allow_it() -> None:
    assert by_name(checks.store("/proc/store"))["store"].state == "error"


def test_the_check_of_a_store_leaves_nothing_behind(tmp_path: Path) -> None:
    assert by_name(checks.store(str(tmp_path / "new")))["store"].state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_every_right_on_s3_is_tried_and_the_clock_compared(s3_server: str) -> None:
    found = by_name(checks.store("s3://corpus/prefix"))
    rights = {name: finding.state for name, finding in found.items() if name.startswith("S3")}
    assert rights == dict.fromkeys(
        ["S3 find the bucket", "S3 write", "S3 read", "S3 list", "S3 delete"], "ok"
    )
    assert found["clock against S3"].state == "ok"


def test_a_missing_bucket_and_a_key_that_may_not_write_are_named(
    s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (missing,) = checks.store("s3://no-such-bucket/prefix")
    assert missing.state == "error" and missing.fix == "create the bucket no-such-bucket"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "headwater-reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "headwater-reader-secret")
    found = by_name(checks.store("s3://corpus/prefix"))
    assert found["S3 write"].state == "error" and "AccessDenied" in found["S3 write"].found
    assert "grant the key s3 write" in found["S3 write"].fix
    assert found["S3 list"].state == "ok"


def test_an_endpoint_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    (finding,) = checks.store("s3://corpus/prefix")
    assert finding.state == "error" and "127.0.0.1:9" in finding.found and "AWS_ENDPOINT_URL" in finding.fix
