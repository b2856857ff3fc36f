"""CPU seconds of each test, its setup and its processes included: `pytest -p tests.cpu_seconds`.

Wall time on a shared machine says little. Processes are looked at twice a second: one that lives shorter is
not seen.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

used: Counter[str] = Counter()
seen: dict[psutil.Process, float] = {}
_lock = threading.Lock()


def _now() -> float:
    with _lock:
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                seen[process] = sum(process.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
        return sum(seen.values())


def _watch(ended: threading.Event) -> None:
    while not ended.wait(0.5):
        _now()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Iterator[None]:
    ended = threading.Event()
    threading.Thread(target=_watch, args=(ended,), daemon=True).start()
    try:
        return (yield)
    finally:
        ended.set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    before = _now()
    try:
        return (yield)
    finally:
        used[item.nodeid] += _now() - before


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section(f"CPU seconds: {_now():.0f} in all")
    for name, seconds in used.most_common(20):
        terminalreporter.write_line(f"{seconds:7.1f} {name}")
