"""A check that raises is a row: which one, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headwater.cluster.errors import HeadwaterError
from headwater.llm.selftest.checks import Check, Crashed, Found, Skipped, run


def raising(error: Exception, *before: Found) -> Any:
    def make() -> Iterator[Found]:
        yield from before
        raise error

    return make


def test_rows_of_a_check_that_ends_well_are_its_findings() -> None:
    found = [Found(True, "1", "1", "one"), Found(False, "3", "2", "two"), Found(True, "4", "4")]
    rows = [*run(Check("all", lambda: found))]
    assert [(row.check, row.result, row.figure) for row in rows] == [
        ("all: one", "passed", "1"),
        ("all: two", "failed", "3"),
        ("all", "passed", "4"),
    ]


def test_an_exception_is_a_failed_row_after_those_before_it() -> None:
    before, crash = run(Check("a", raising(ZeroDivisionError("by nothing"), Found(True, "1", "1"))))
    assert before.result == "passed"
    assert (crash.result, crash.reason) == ("failed", "ZeroDivisionError: by nothing")
    assert "raise error" in crash.details
    (row,) = run(Check("a", raising(HeadwaterError("it is full", where="disk", fix="free it"))))
    assert row.reason == "disk: it is full (free it)"
    (row,) = run(Check("a", raising(Crashed("signal 9", "a log"))))
    assert (row.result, row.reason, row.details) == ("failed", "signal 9", "a log")


def test_what_a_machine_cannot_do_is_skipped_with_the_reason_and_nothing_measured_has_failed() -> None:
    (row,) = run(Check("a", raising(Skipped("no compiler"))))
    assert (row.result, row.reason) == ("skipped", "no compiler")
    (row,) = run(Check("a", list))
    assert row.result == "failed" and row.reason
