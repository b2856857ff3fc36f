"""The lease that keeps a second driver out of a store in S3, on a real server with conditional writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import end_like_ctrl_c
from headwater.cluster.storage import lease
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store

TAKEN = "another run is using this store: run mine on .+, pid "


@pytest.fixture
def store(s3_server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose leases are renewed often and live long, so that none expires by accident."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.1)
    return Store(f"s3://corpus/leases/{request.node.name}")


def test_a_second_driver_is_refused_with_the_holders_name_and_admitted_after_its_end(store: Store) -> None:
    told: list[str] = []
    with store.locked("mine"):
        for _ in range(2):
            with (
                pytest.raises(HeadwaterError, match=rf"{TAKEN}{os.getpid()}"),
                store.locked("other", told.append),
            ):
                pytest.fail("two drivers at once")
        assert "waiting" in told[0] and "run mine" in told[0]
    told.clear()
    with store.locked("other", told.append):
        assert told == []  # a lease that was given back is free at once


def test_the_lease_of_a_killed_driver_is_taken_when_it_has_expired(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.5)
    script = f"""
import os, signal
from headwater.cluster.storage.store import Store
with Store({store.location!r}).locked("killed"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    told: list[str] = []
    with store.locked("next", told.append):
        assert "held by run killed on" in told[0]


def test_of_many_that_find_a_free_lease_exactly_one_takes_it(store: Store) -> None:
    with store.locked("gone"):
        pass
    inside: list[int] = []
    start, refused = threading.Barrier(6), threading.Semaphore(0)

    def contend(number: int) -> None:
        start.wait()
        try:
            with store.locked(f"{number}"):
                inside.append(number)
                for _ in range(5):
                    assert refused.acquire(timeout=60)
        except HeadwaterError:
            refused.release()

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) == 1


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN], ids=["front", "background"])
def test_a_driver_whose_lease_was_taken_ends_with_the_name_of_the_other(store: Store, ctrl_c: Any) -> None:
    """As after a machine slept for longer than the lease; a shell's background commands ignore Ctrl-C."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, ctrl_c)
    end_like_ctrl_c()
    other = {"holder": "run next on host b, pid 7", "token": "other", "nonce": ""}
    try:
        with pytest.raises(HeadwaterError, match=f"another run is using this store: {other['holder']}"):
            _sleep_while_taken(store, other)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert Artifact(store.location).read_json(lease.NAME) == other  # which is left alone


def _sleep_while_taken(store: Store, other: dict[str, str]) -> None:
    with store.locked("sleeper"):
        Artifact(store.location).write_json(lease.NAME, other)
        time.sleep(60)


def test_a_lease_that_somebody_deleted_is_written_again(store: Store) -> None:
    with store.locked("mine"):
        Artifact(store.location).delete(lease.NAME)
        deadline = time.monotonic() + 60
        while not Artifact(store.location).exists(lease.NAME):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with pytest.raises(HeadwaterError, match=TAKEN), store.locked("other"):
            pytest.fail("two drivers at once")


def test_keys_that_may_only_read_get_one_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "headwater-reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "headwater-reader-secret")
    with pytest.raises(HeadwaterError, match="the lease cannot be read or written"), store.locked("mine"):
        pytest.fail("locked without the right to write")
