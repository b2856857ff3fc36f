"""Context of a run: the Ray cluster, the store, the console and the log files.

Without an address, Ray is embedded: it is started on this machine, with its dashboard on localhost, and
stopped with this process. With an address, the same code uses that cluster.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime import logs, orphans, progress
from headwater.cluster.runtime.run_record import Progress, RunRecord
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store

log = logging.getLogger("headwater")

CONNECT_SECONDS = 10.0
OBJECT_STORE_BYTES = 1 << 30
"""Object store size of an embedded Ray. The nodes of a cluster have their own setting."""

WORKER_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",  # parallelism comes from the workers
    "HF_HUB_OFFLINE": "1",  # no implicit downloads from a model hub
    "RAY_TRAIN_V2_ENABLED": "1",
    "DS_SKIP_CUDA_CHECK": "1",
    "PYTHONWARNINGS": "ignore",
    "MALLOC_ARENA_MAX": "2",  # glibc's per-thread arenas retain unused memory
}

QUIET = {
    "RAY_event_stats": "0",  # timings of every event in each Ray process
    "RAY_enable_metrics_collection": "0",  # for Prometheus, which an embedded Ray lacks
}
"""Counters disabled in an embedded Ray unless the environment sets them. They take a quarter of the CPU time
of Ray's processes, and a delay of one training worker delays all of them."""


class Session:
    """Context manager of a run. `ray()` starts or joins the cluster on first use."""

    def __init__(
        self,
        store: Store,
        *,
        console: Console | None = None,
        address: str | None = None,
        logs_to: Path | None = None,
        run: str | None = None,
        attempt: int | None = None,
        num_cpus: int | None = None,
        max_workers: int | None = None,
        patience: float = 30.0,
    ) -> None:
        """`logs_to`: folder for this process's output and logs. `run`: name of the run to record, as its
        `attempt` with this number (default: the next). `patience`: seconds without progress after which a
        stage says what resources it waits for. Raises HeadwaterError for an address that is none, or
        for one with 0 workers.
        """
        if address:
            _check_form(address)
            if max_workers == 0:
                raise HeadwaterError(
                    "0 workers do the work in this process, and not on a cluster",
                    where=address,
                    fix="leave out --address, or give --max-workers 1 or more",
                )
        self.store = store
        self.console = console or Console(quiet=True)
        self.address = address
        self.logs_to = logs_to
        self.record = RunRecord(store, run, logs_to, attempt) if run else None
        self.max_workers = max_workers
        """Maximum number of actors per pool; None lets `cluster.runtime.pool.pool_size` decide. With 0
        this process does the work of pools."""
        self.patience = patience
        self._num_cpus = num_cpus
        self._progressed = ("", 0, time.monotonic())
        self._own_ray = False
        self._saved: list[tuple[int, int]] = []

    def __enter__(self) -> Session:
        if self.logs_to is not None:
            self._send_output_to_logs(self.logs_to)
        if self.record:
            os.environ[logs.RUN_VARIABLE] = self.record.record.recipe
            self.record.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own_ray:
            import ray

            ray.shutdown()
        if self.record:
            self.record.__exit__(kind, value, trace)
        self._give_output_back()

    def ray(self) -> None:
        """Start or join Ray. Does nothing if this process is already connected."""
        import ray

        if ray.is_initialized():
            return
        os.environ.update(WORKER_ENVIRONMENT)
        if self.address:
            _check_answers(self.address)
            try:
                environment = {"env_vars": WORKER_ENVIRONMENT}
                ray.init(address=self.address, log_to_driver=False, runtime_env=environment)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise HeadwaterError(
                    f"cannot reach a Ray cluster ({error})", where=self.address, fix="check --address"
                ) from error
        else:
            # Otherwise Ray would join a cluster that happens to run on this machine.
            os.environ.pop("RAY_ADDRESS", None)
            for name, value in QUIET.items():
                os.environ.setdefault(name, value)
            # Workers inherit this process's environment. A runtime_env with the same variables would keep
            # Ray from using its prestarted worker processes.
            ray.init(
                address="local",
                num_cpus=self.embedded_cpus(),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
            )
        self._own_ray = True
        end_like_ctrl_c()
        from ray.data import DataContext

        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False  # type: ignore[attr-defined]

    @property
    def here(self) -> bool:
        """Whether the work of pools is done in this process, without Ray."""
        return self.max_workers == 0

    @property
    def grows(self) -> bool:
        """Whether nodes may be added: a joined cluster may autoscale, the embedded one cannot."""
        return self.address is not None

    def embedded_cpus(self) -> int:
        """Number of CPUs that an embedded Ray is given."""
        return self._num_cpus or max(2, os.cpu_count() or 2)

    def cpus(self) -> int:
        """Number of CPUs in the cluster."""
        import ray

        self.ray()
        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def gpus(self) -> int:
        """Number of GPUs in the cluster."""
        import ray

        self.ray()
        return int(ray.cluster_resources().get("GPU", 0))

    def run_folder(self, run: str) -> Artifact:
        """Folder for what belongs to a run: that of its attempt, or the run's own without a record."""
        return self.record.folder if self.record else self.store.folder(f"runs/{run}")

    def stage_started(self, name: str, output: Artifact) -> None:
        self.store.check_writable()
        self._progressed = ("", 0, time.monotonic())
        os.environ[logs.STAGE_VARIABLE] = f"{name}/{output.key}"
        if self.record:
            self.record.stage(name, output)
        if not self.here:
            self.ray()
        if self.address:
            orphans.end_orphans()
        log.info("stage %s %s started", name, output.key)

    @contextlib.contextmanager
    def progress(self, label: str, total: int, unit: str) -> Iterator[progress.Bar]:
        with progress.bar(self.console, label, total, unit, self._listener()) as shown:
            yield shown

    @contextlib.contextmanager
    def remote_progress(self, label: str, total: int, unit: str) -> Iterator[Any]:
        """Yields a Ray actor handle. Workers call its `report(done, note)` and `say(line)`."""
        self.ray()
        shown = progress.remote_bar(self.console, label, total, unit, self.say, self._listener())
        with shown as board:
            yield board

    def _listener(self) -> Callable[[Progress], None]:
        def listen(shown: Progress) -> None:
            if (shown.label, shown.done) != self._progressed[:2]:
                self._progressed = (shown.label, shown.done, time.monotonic())
            if self.record:
                self.record.progress(shown)

        return listen

    def idle_seconds(self) -> float:
        """Seconds since the stage started or last made progress."""
        return time.monotonic() - self._progressed[2]

    def say(self, text: str) -> None:
        """Print a line on the console and log it."""
        self.console.print(f"  {text}", highlight=False, markup=False)
        log.info("%s", text)

    def _send_output_to_logs(self, folder: Path) -> None:
        """Redirect descriptors 1 and 2, to which Ray and its libraries write, to `run.log`.

        The console keeps writing to the original descriptor 1. This process's own logs go to `log.jsonl`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.console.file.flush()
        self._saved = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
        self._screen = self.console.file
        self.console.file = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
        log_descriptor = os.open(folder / "run.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for descriptor, _ in self._saved:
            os.dup2(log_descriptor, descriptor)
        os.close(log_descriptor)
        logs.to_file(folder / logs.FILE)

    def _give_output_back(self) -> None:
        if not self._saved:
            return
        sys.stdout.flush()
        sys.stderr.flush()
        self.console.file.close()
        self.console.file = self._screen
        for descriptor, copy in self._saved:
            os.dup2(copy, descriptor)
            os.close(copy)
        self._saved = []


def _check_form(address: str) -> None:
    scheme, separator, _ = address.rpartition("://")
    if separator:
        outside = "from outside the cluster: headwater submit --dashboard http://HEAD:8265"
        raise HeadwaterError(
            f"{scheme}:// is not an address that a driver can join",
            where=address,
            fix=f"on a node of the cluster, pass auto or HEAD:6379; {outside}",
        )


def _check_answers(address: str) -> None:
    """Raise HeadwaterError if nothing listens at the address; Ray itself would wait for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():  # `auto`, which Ray resolves
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise HeadwaterError(
            f"cannot reach a Ray cluster ({error.strerror or error})", where=address, fix="check --address"
        ) from error


def end_like_ctrl_c() -> None:
    """Handle SIGTERM like Ctrl-C, for a clean shutdown of training. Ray's own handler exits at once."""

    def end(number: int, frame: FrameType | None) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts background commands
            signal.default_int_handler(number, frame)
        os.kill(os.getpid(), signal.SIGINT)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)
