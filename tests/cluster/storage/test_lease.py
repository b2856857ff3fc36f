"""The lease that keeps a second driver out of a store in S3, on a real server with conditional writes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage import lease
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store

TAKEN = "another run is using this store: run mine on .+, pid "


@pytest.fixture
def store(s3_server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose leases live for two seconds, long against the times that S3 gives in whole seconds."""
    for name, seconds in (("LEASE_SECONDS", 2.0), ("RENEW_SECONDS", 0.3), ("POLL_SECONDS", 0.1)):
        monkeypatch.setattr(lease, name, seconds)
    return Store(f"s3://corpus/leases/{request.node.name}")


def test_a_second_driver_is_refused_with_the_holders_name_and_admitted_after_its_end(store: Store) -> None:
    told: list[str] = []
    with store.locked("mine"):
        with (
            pytest.raises(HeadwaterError, match=rf"{TAKEN}{os.getpid()}"),
            store.locked("other", told.append),
        ):
            pytest.fail("two drivers at once")
        assert "waiting" in told[0] and "run mine" in told[0]
    told.clear()
    with store.locked("other", told.append):
        assert told == []  # a lease that was given back is free at once


def test_the_lease_is_kept_longer_than_its_life_by_renewing_it(store: Store) -> None:
    with store.locked("mine"):
        time.sleep(lease.LEASE_SECONDS + 1.5)
        with pytest.raises(HeadwaterError, match=TAKEN), store.locked("other"):
            pytest.fail("two drivers at once")


def test_the_lease_of_a_killed_driver_is_taken_when_it_has_expired(store: Store) -> None:
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


def test_of_many_that_find_an_expired_lease_exactly_one_takes_it(store: Store) -> None:
    with store.locked("gone"):
        pass
    inside, refused, start = [], [], threading.Barrier(6)

    def contend(number: int) -> None:
        start.wait()
        with contextlib.suppress(HeadwaterError):
            with store.locked(f"{number}"):
                inside.append(number)
                time.sleep(2)  # all others have been refused
            return
        refused.append(number)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 5)


def test_a_driver_whose_lease_was_taken_ends_with_the_name_of_the_other(store: Store) -> None:
    """As after a machine slept for longer than the lease."""

    def overrun() -> Iterator[None]:
        with store.locked("sleeper"):
            Artifact(store.location).write_json(
                lease.NAME, {"holder": "run next on host b, pid 7", "token": "other", "nonce": ""}
            )
            time.sleep(20)
            yield

    with pytest.raises(HeadwaterError, match="another run is using this store: run next on host b, pid 7"):
        next(overrun())
    assert Artifact(store.location).read_json(lease.NAME)["token"] == "other"  # and leaves that lease alone


def test_a_lease_that_somebody_deleted_is_written_again(store: Store) -> None:
    with store.locked("mine"):
        Artifact(store.location).delete(lease.NAME)
        time.sleep(3 * lease.RENEW_SECONDS)
        with pytest.raises(HeadwaterError, match=TAKEN), store.locked("other"):
            pytest.fail("two drivers at once")


def test_keys_that_may_only_read_get_one_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "headwater-reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "headwater-reader-secret")
    with pytest.raises(HeadwaterError, match="the lease cannot be read or written"), store.locked("mine"):
        pytest.fail("locked without the right to write")
