"""A process for checks: what it raises, prints last and dies of is told, and the next check gets another."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from headwater.llm.selftest.checks import Crashed, Skipped
from headwater.llm.selftest.place import Place


def last_words() -> None:
    print("out of memory", file=sys.stderr, flush=True)
    os._exit(3)


def hangs() -> None:
    threading.Event().wait()


def cannot() -> None:
    raise Skipped("no compiler")


def divides(by: int) -> float:
    return 1 / by


def test_a_process_answers_is_replaced_when_it_dies_and_ended_when_it_hangs() -> None:
    with Place("cpu") as place:
        first = place.run(os.getpid)
        assert first != os.getpid() and place.run(divides, 4) == 0.25
        with pytest.raises(Crashed, match="ZeroDivisionError") as raised:
            place.run(divides, 0)
        assert "in divides" in raised.value.details
        with pytest.raises(Skipped, match="no compiler"):
            place.run(cannot)
        assert place.run(os.getpid) == first
        with pytest.raises(Crashed, match="exit code 3: out of memory"):
            place.run(last_words)
        place.seconds = 0.1
        with pytest.raises(Crashed, match=r"no answer within 0\.1 s"):
            place.run(hangs)
        place.seconds = 60
        assert place.run(os.getpid) != first
