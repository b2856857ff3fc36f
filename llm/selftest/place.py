"""A process in which checks run on one device, as the only worker of a group.

DeepSpeed knows one device per process, and a crash on a GPU spoils the process that had it: each device has a
process, which serves many checks and is replaced when it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeVar

from headwater.cluster.runtime.session import WORKER_ENVIRONMENT
from headwater.llm.selftest.checks import Crashed, Skipped, told

Device = Literal["cpu", "cuda"]
T = TypeVar("T")
SECONDS = 300.0
"""For which a check may go without an answer."""
IMPORTED_ONCE = ["deepspeed", "transformers.models.qwen3.modeling_qwen3", "headwater.llm.training.loop"]


class Place:
    """Runs functions in a process of its own; a context manager that ends it."""

    def __init__(self, device: Device, *, seconds: float = SECONDS) -> None:
        self.device, self.seconds = device, seconds
        self._folder = tempfile.TemporaryDirectory(prefix="headwater-selftest-")
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._folder.cleanup()

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """The function's value. Raises Skipped as the function does, and Crashed for anything else it raises,
        if its process dies, or if it does not answer in time."""
        if self._process is None:
            self._start()
        try:
            self._pipe.send((function, arguments))
            if not self._pipe.poll(self.seconds):
                self.end()
                raise Crashed(f"no answer within {self.seconds:g} s", self._last_lines())
            how, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if how is not None:
            raise how(*value)
        return value  # type: ignore[no-any-return]

    def end(self) -> None:
        """End the process, whatever it does. The next function gets another one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "log"

    def _start(self) -> None:
        import torch

        # Imported once, DeepSpeed knows one device for all forks, and who asked for GPUs cannot be forked.
        started = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "forkserver")
        if started.get_start_method() == "forkserver":
            started.set_forkserver_preload(IMPORTED_ONCE)
        self._pipe, its = started.Pipe()
        arguments = (its, self.device, self._log)
        self._process = started.Process(target=_serve, args=arguments, daemon=True)  # type: ignore[attr-defined]
        self._process.start()
        its.close()

    def _died(self) -> Crashed:
        self._process.join()
        code = self._process.exitcode
        self.end()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        lines = self._last_lines()
        last = f": {lines.splitlines()[-1]}" if lines else ""
        return Crashed(f"its process died with {how}{last}", lines)

    def _last_lines(self) -> str:
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join([line for line in text.splitlines() if line.strip()][-20:])


def _serve(pipe: Connection, device: Device, log: Path) -> None:
    """Answer calls until the other end closes."""
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    _join_group(device, log.with_name(f"meeting-{os.getpid()}"))
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            break
        answer: tuple[Any, Any]
        try:
            answer = None, function(*arguments)
        except Skipped as why:
            answer = Skipped, why.args
        except Exception as error:  # noqa: BLE001 (told to the other end)
            answer = Crashed, (told(error), traceback.format_exc())
        sys.stdout.flush()
        pipe.send(answer)
    os._exit(0)  # threads of the libraries may outlive the interpreter


def _join_group(device: Device, meeting: Path) -> None:
    """Be the only worker of a group, as Ray Train makes them."""
    os.environ |= WORKER_ENVIRONMENT
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": device}
    import torch
    import torch.distributed as dist

    if device == "cuda":
        torch.cuda.set_device(0)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{meeting}", rank=0, world_size=1)
