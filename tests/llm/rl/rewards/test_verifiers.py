"""Verifiers that come with the package, and the sandbox that code answers run in."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import regex

from headwater.llm.examples.tasks import Task
from headwater.llm.inference import Completion
from headwater.llm.rl.rewards import sandbox
from headwater.llm.rl.rewards.sandbox import Limits
from headwater.llm.rl.rewards.verifiers import VERIFIERS, headline

STOPPED = Completion([1], [0.0], "stop")


def score(verifier: str, answer: str, reference: str) -> float:
    return VERIFIERS[verifier](answer, STOPPED, Task("t", [], reference))


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Council voted to rebuild old bridge", 1),
        ("Martians voted to leave", 1 / 3),  # of three content words
        ("The old bridge", 0),  # too short
        ("The old stone bridge", 1),
        ("The old stone bridge collapsed", 3 / 4),
        ("Voted to rebuild the bridge, to rebuild it", 0),
        ("Council voted on the council bridge", 0),
        ("Council of the of the stone bridge", 0),
        ("The stone stone bridge voted", 0),
        ("The the of the of the to a", 0),
        ("", 0),
    ],
)
def test_a_headline_is_short_says_nothing_twice_and_is_about_its_article(answer: str, right: float) -> None:
    task = Task("id", [], "", "The council voted on Tuesday to rebuild the old stone bridge.")
    assert headline(answer, STOPPED, task) == pytest.approx(right)


def test_a_headline_has_to_stop_by_itself() -> None:
    task = Task("id", [], "", "The council voted on Tuesday to rebuild the old stone bridge.")
    cut = Completion([1], [0.0], "length")
    assert headline("Council voted to rebuild old bridge", cut, task) == 0


def test_a_regular_expression_has_to_match_the_whole_answer() -> None:
    assert score("regex", " 14:05\n", r"\d\d:\d\d") == 1
    assert score("regex", "at 14:05", r"\d\d:\d\d") == 0
    with pytest.raises(regex.error):
        score("regex", "a", "(")
    with pytest.raises(TimeoutError):
        score("regex", "a" * 5000 + "b", r"(.*a){12}c")


SCHEMA = json.dumps(
    {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]}
)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"age": 3}', 1),
        ('Here it is:\n```json\n{"age": 3}\n```\n', 1),
        ('{"age": -3}', 0),
        ("{}", 0),
        ("{'age': 3}", 0),
        ("", 0),
        ("[" * 100_000, 0),
    ],
)
def test_an_answer_has_to_be_json_that_fits_the_schema(answer: str, right: float) -> None:
    assert score("json_schema", answer, SCHEMA) == right


def test_a_reference_that_is_no_schema_is_not_the_answers_fault() -> None:
    with pytest.raises(Exception, match="is not valid under any of the given schemas"):
        score("json_schema", "{}", '{"type": 7}')


def test_a_long_answer_has_the_share_of_the_references_length() -> None:
    assert score("length", "two words", "at most three") == 1
    assert score("length", "one two three four", "two words") == 0.5


ADD = "def add(a, b):\n    return a + b\n"
TESTS = "assert add(2, 3) == 5\nassert add(-1, 1) == 0\n"


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (ADD, 1),
        (f"Sure:\n```python\n{ADD}```\nDone.", 1),
        (ADD.replace("+", "-"), 0),
        ("def add(a, b:", 0),
        ("", 0),
        ("raise SystemExit(0)", 0),
        ("import os\nos._exit(0)", 0),
    ],
)
def test_code_is_right_if_the_tests_run_to_their_end(answer: str, right: float) -> None:
    assert score("code", answer, TESTS) == right


def test_code_that_does_not_end_is_ended() -> None:
    outcome = sandbox.run("print('begun', flush=True)\nwhile True: pass", "", Limits(seconds=0.5))
    assert not outcome.passed and "begun" in outcome.output


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("x = bytearray(1 << 30)", "MemoryError"),
        ("open('big', 'wb').write(bytes(2 << 20))", "File too large|OSError"),
        ("fs = [open('f' + str(n), 'w') for n in range(100)]", "Too many open files"),
        ("import numpy", "ModuleNotFoundError"),
        (
            "import os\nraise KeyError('SECRET' in os.environ, os.listdir('.'))",
            r"KeyError: \(False, \[\]\)",
        ),
    ],
)
def test_code_is_limited(code: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "key")
    outcome = sandbox.run(code, "")
    assert not outcome.passed and regex.search(told, outcome.output), outcome.output


OUTLIVE = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        while True:
            with open({path!r}, "a") as file:
                file.write("x")
            time.sleep(0.02)
    os._exit(0)
while not os.path.exists({path!r}):
    time.sleep(0.01)
"""


def test_what_code_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "alive"
    assert sandbox.run(OUTLIVE.format(path=str(path)), "assert True").passed
    written = path.stat().st_size
    assert written > 0
    time.sleep(0.3)
    assert path.stat().st_size == written


def test_code_reaches_no_network_where_that_can_be_kept_from_it() -> None:
    if not sandbox._apart():
        pytest.skip("unshare is not permitted here")
    code = "import socket\ns = socket.socket()\ns.settimeout(1)\n"
    outcome = sandbox.run(code + "s.connect(('127.0.0.1', 9))", "")
    assert not outcome.passed and "unreachable" in outcome.output


def test_code_that_ends_its_supervisor_does_not_pass_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "alive"
    killing = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n" + OUTLIVE.format(path=str(path))
    outcome = sandbox.run(killing, "")
    if sandbox._apart():  # there it cannot
        assert outcome.passed
    else:
        assert not outcome.passed
    written = path.stat().st_size if path.exists() else 0
    time.sleep(0.3)
    assert (path.stat().st_size if path.exists() else 0) == written
