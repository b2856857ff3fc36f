"""Runs a function on untrusted input in a child process, with limits on time and memory.

Input that takes too long, needs too much memory or crashes a parser costs one call: the child is killed and
the next call starts another. Requests are pickled by the parent; replies are JSON, so that a child whose
parser was subverted cannot run anything in the parent.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import pickle
import resource
import signal
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from typing import Any

from headwater.cluster.errors import HeadwaterError

CHILD_MEMORY_BYTES = 4 << 30


class ChildFailed(Exception):
    """The child gave no reply. `timeout`: because its time was up; otherwise it crashed."""

    def __init__(self, timeout: bool) -> None:
        super().__init__("timeout" if timeout else "crash")
        self.timeout = timeout


class Child:
    """Calls `function` (`module:name`) in a child process, which is started at the first call."""

    def __init__(
        self,
        function: str,
        timeout_seconds: float,
        warm_up: tuple[Any, ...],
        memory: int = CHILD_MEMORY_BYTES,
    ) -> None:
        """`warm_up`: arguments of a first call that loads the libraries, outside the timeout. `memory`: limit
        in bytes."""
        self._function, self._timeout, self._warm_up, self._memory = (
            function,
            timeout_seconds,
            warm_up,
            memory,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def __call__(self, *arguments: Any) -> Any:
        """The function's result, which must be JSON. Raises ChildFailed, or HeadwaterError if the child
        cannot load what it needs."""
        pipe = self._started()
        try:
            pipe.send_bytes(pickle.dumps(arguments))
            if pipe.poll(self._timeout):
                return json.loads(pipe.recv_bytes())
            timeout = True
        except (EOFError, OSError, ValueError):
            timeout = False
        self.close()
        raise ChildFailed(timeout)

    def close(self) -> None:
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.wait()
            self._pipe.close()
        self._process = self._pipe = None

    def _started(self) -> Connection:
        if self._pipe is None:
            self._pipe, theirs = Pipe()
            command = [sys.executable, "-m", "headwater.data_pipeline.text.child", str(theirs.fileno())]
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # the import path of this process
            )
            theirs.close()
            begin = pickle.dumps((self._function, self._timeout, self._warm_up, self._memory))
            try:
                self._pipe.send_bytes(begin)
                fault = json.loads(self._pipe.recv_bytes())  # the timeout covers calls, not imports
            except (EOFError, OSError):
                fault = "it ended without a word"
            if fault:
                self.close()
                raise HeadwaterError(
                    f"the process of {self._function} cannot start: {fault}",
                    fix="reinstall its packages",
                )
        return self._pipe


def _serve(descriptor: int) -> None:
    """Main loop of the child: answers calls until the pipe closes."""
    pipe = Connection(descriptor)
    name, timeout, warm_up, memory = pickle.loads(pipe.recv_bytes())  # noqa: S301 - written by our own parent
    if sys.platform != "darwin":  # where the kernel refuses this limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
        function(*warm_up)
    except Exception as error:  # noqa: BLE001 - told by the parent
        pipe.send_bytes(json.dumps(f"{type(error).__name__}: {error}"[:1000]).encode())
        return
    pipe.send_bytes(b"null")
    while True:
        try:
            arguments = pickle.loads(pipe.recv_bytes())  # noqa: S301 - written by our own parent
        except EOFError:
            return
        signal.alarm(2 * math.ceil(timeout))  # ends this process if the parent has died
        result = function(*arguments)
        signal.alarm(0)
        pipe.send_bytes(json.dumps(result).encode())


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
