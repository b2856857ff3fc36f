"""A check and its rows: each runs on its own, and one that fails or crashes is a row like the others."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from headwater.cluster.errors import HeadwaterError, first_line, root_cause

Verdict = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Found:
    """What a check measured, against what was expected."""

    passed: bool
    figure: str
    expected: str
    of: str = ""
    """What it is of, if the check has several rows."""


class Skipped(Exception):
    """A check that this machine cannot make; the message says why."""


class Crashed(Exception):
    """What ended a check in another process."""

    def __init__(self, reason: str, details: str) -> None:
        super().__init__(reason, details)
        self.reason, self.details = reason, details


@dataclass(frozen=True)
class Check:
    name: str
    make: Callable[[], Iterable[Found]]
    """Raises Skipped if the machine lacks what it needs."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    check: str
    result: Verdict
    figure: str = ""
    expected: str = ""
    reason: str = ""
    """Why it was skipped, or what it crashed with."""
    details: str = ""
    """The traceback of a crash."""
    seconds: float = 0.0
    """Of the whole check, also if it has several rows."""


def run(check: Check) -> Iterator[Row]:
    """The rows of a check; whatever it raises is one of them, Ctrl-C apart."""
    started = time.monotonic()
    found: list[Found] = []
    ended: tuple[Verdict, str, str] | None = None
    try:
        for each in check.make():
            found.append(each)
    except Skipped as why:
        ended = "skipped", str(why), ""
    except Crashed as crash:
        ended = "failed", crash.reason, crash.details
    except Exception as error:  # noqa: BLE001 (a check that crashes is a row)
        ended = "failed", told(error), traceback.format_exc()
    seconds = round(time.monotonic() - started, 1)
    for each in found:
        name = f"{check.name}: {each.of}" if each.of else check.name
        verdict: Verdict = "passed" if each.passed else "failed"
        yield Row(name, verdict, each.figure, each.expected, seconds=seconds)
    if ended is not None:
        verdict, reason, details = ended
        yield Row(check.name, verdict, reason=reason, details=details, seconds=seconds)
    elif not found:
        yield Row(check.name, "failed", reason="it measured nothing", seconds=seconds)


def told(error: BaseException) -> str:
    """An error in one line: what a HeadwaterError says, else the first cause with its type."""
    cause = root_cause(error)
    return str(cause) if isinstance(cause, HeadwaterError) else f"{type(cause).__name__}: {first_line(cause)}"
