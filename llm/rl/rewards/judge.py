"""Scores of sampled answers by one or several verifiers, each with its weight.

A verifier of a user's file runs in a process of its own, which is killed at its time limit. A verifier that
raises, dies or takes too long has not judged the answer: its score is nan, never 0.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from headwater.cluster.errors import first_line
from headwater.cluster.runtime.plugins import Plugin
from headwater.llm.examples.tasks import Task
from headwater.llm.inference.base import Completion
from headwater.llm.rl.rewards.verifiers import VERIFIERS

log = logging.getLogger("headwater")

START_SECONDS = 120.0
"""Time for a plugin's process to start and to run its file."""


@dataclass(frozen=True)
class Weighted:
    """A verifier in a mixture."""

    name: str
    """A key of `VERIFIERS`, or the name of the plugin."""
    weight: float = 1.0
    plugin: Plugin | None = None


@dataclass
class Judged:
    """What verifiers say of some answers."""

    verified: np.ndarray
    """[answers] mean of the scores by weight; nan where a verifier failed; 0 without verifiers, and for
    answers to tasks that no verifier can judge."""
    scores: dict[str, np.ndarray]
    """By verifier; nan where it failed."""
    failures: list[str]
    """`VERIFIER: reason`, one for each answer and verifier that failed on it."""


class Judge:
    """Asks verifiers about answers. `seconds`: time limit of a plugin for one answer."""

    def __init__(self, verifiers: Sequence[Weighted], seconds: float) -> None:
        self.verifiers = tuple(verifiers)
        self._ask = {
            each.name: PluginProcess(each.plugin, seconds) if each.plugin else VERIFIERS[each.name]
            for each in self.verifiers
        }

    def judge(
        self, answers: Sequence[str], completions: Sequence[Completion], tasks: Sequence[Task]
    ) -> Judged:
        """The answers' scores; the three lists belong together."""
        scores: dict[str, np.ndarray] = {}
        failures: list[str] = []
        for each in self.verifiers:
            scores[each.name] = np.full(len(answers), np.nan)
            for place, asked in enumerate(zip(answers, completions, tasks, strict=True)):
                if not asked[-1].verifiable:
                    scores[each.name][place] = 0.0
                    continue
                try:
                    scores[each.name][place] = finite(self._ask[each.name](*asked))
                except Exception as error:  # noqa: BLE001  a user's function may raise anything
                    reason = str(error) if isinstance(error, Failed) else _said(error)
                    failures.append(f"{each.name}: {reason}")
        for failure in dict.fromkeys(failures):
            log.warning("a verifier failed on %d answers: %s", failures.count(failure), failure)
        total = sum(each.weight for each in self.verifiers)
        verified = sum(
            (each.weight / total * scores[each.name] for each in self.verifiers), np.zeros(len(answers))
        )
        return Judged(verified, scores, failures)


class Failed(Exception):
    """A plugin did not judge an answer."""


class PluginProcess:
    """A verifier in a process of its own, started when first asked and again after it was lost."""

    def __init__(self, plugin: Plugin, seconds: float) -> None:
        self.plugin, self.seconds = plugin, seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, answer: str, completion: Completion, task: Task) -> float:
        """The score. Raises Failed if the function raises, ends its process or takes too long."""
        if self._process is None:
            self._start()
        asked = {"answer": answer, "completion": asdict(completion), "task": asdict(task)}
        told = self._told(asked, self.seconds)
        if "error" in told:
            raise Failed(told["error"])
        return float(told["score"])

    def close(self) -> None:
        """End the process and what it started."""
        if self._process is not None:
            process, self._process = self._process, None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,
        )
        told = self._told(asdict(self.plugin), START_SECONDS)
        if "error" in told:
            self.close()
            raise Failed(told["error"])

    def _told(self, asked: dict[str, Any], seconds: float) -> dict[str, Any]:
        """One line for another."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            process.stdin.flush()
            line = _line(process.stdout.fileno(), time.monotonic() + seconds)
        except (BrokenPipeError, TimeoutError) as error:
            self.close()
            raise Failed(
                f"no score after {seconds:g} s" if isinstance(error, TimeoutError) else "died"
            ) from None
        if not line:
            self.close()
            raise Failed(f"its process ended with {process.returncode}")
        return json.loads(line)  # type: ignore[no-any-return]


def _line(descriptor: int, deadline: float) -> bytes:
    """Bytes up to a line's end, or all before the other side closed. Raises TimeoutError."""
    found = b""
    while not found.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            return b""
        found += piece
    return found


def serve() -> None:
    """What a plugin's process does: load the file, then a score for each line of standard input.

    What the function prints goes to standard error. The process ends with its parent.
    """
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    loaded: list[Callable[..., Any]] = []

    def load(plugin: dict[str, Any]) -> float:
        loaded.append(Plugin(**plugin).load())
        return 0.0

    def verify(asked: dict[str, Any]) -> float:
        completion, task = Completion(**asked["completion"]), Task(**asked["task"])
        return finite(loaded[0](asked["answer"], completion, task))

    for line in sys.stdin:
        try:
            told: dict[str, Any] = {"score": (verify if loaded else load)(json.loads(line))}
        except Exception as error:  # noqa: BLE001  a user's function may raise anything
            told = {"error": _said(error)}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def die_with_parent() -> None:
    """On Linux, have this process killed when the thread that started it ends."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def finite(score: Any) -> float:
    """A verifier's score as a number. Raises ValueError if it is none, nan or infinite."""
    value = float(score)
    if not math.isfinite(value):
        raise ValueError(f"returned {value}")
    return value


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
