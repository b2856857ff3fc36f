"""A run's surroundings: the Ray cluster, the store, the screen and the log file.

Without an address Ray is embedded: started in this process's care on this machine alone, bound
to localhost, and gone with it. With an address the same code uses that cluster.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from cluster import progress
from cluster.errors import HeadwaterError
from cluster.store import Store

log = logging.getLogger("headwater")

OBJECT_STORE_BYTES = 1 << 30
"""Shared memory of an embedded Ray; a cluster's nodes have their own setting."""

WORKER_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",  # workers are the parallelism
    "HF_HUB_OFFLINE": "1",  # nothing is fetched from a model hub behind the user's back
    "RAY_TRAIN_V2_ENABLED": "1",
    "DS_SKIP_CUDA_CHECK": "1",
    "PYTHONWARNINGS": "ignore",
    "MALLOC_ARENA_MAX": "2",  # glibc's arenas, one a thread, hold memory that nothing uses
}


class Session:
    """Use as a context manager; `ray()` starts or joins the cluster the first time it is needed."""

    def __init__(
        self,
        store: Store,
        *,
        console: Console | None = None,
        address: str | None = None,
        log_file: Path | None = None,
        num_cpus: int | None = None,
    ) -> None:
        self.store = store
        self.console = console or Console(quiet=True)
        self.address = address
        self.log_file = log_file
        self._num_cpus = num_cpus
        self._own_ray = False
        self._saved: list[tuple[int, int]] = []

    def __enter__(self) -> Session:
        if self.log_file is not None:
            self._send_output_to_log(self.log_file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own_ray:
            import ray

            ray.shutdown()
        self._give_output_back()

    def ray(self) -> None:
        """Start or join Ray; does nothing when this process already has a cluster."""
        import ray

        if ray.is_initialized():
            return
        os.environ.update(WORKER_ENVIRONMENT)
        runtime_env = {"env_vars": WORKER_ENVIRONMENT}
        if self.address:
            try:
                ray.init(address=self.address, log_to_driver=False, runtime_env=runtime_env)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise HeadwaterError(
                    f"no Ray cluster answers ({error})", where=self.address, fix="check --address"
                ) from error
        else:
            # Without this, a Ray that happens to run on this machine would be joined.
            os.environ.pop("RAY_ADDRESS", None)
            ray.init(
                address="local",
                num_cpus=self._num_cpus or max(2, os.cpu_count() or 2),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                runtime_env=runtime_env,
            )
        self._own_ray = True
        from ray.data import DataContext

        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False  # type: ignore[attr-defined]

    def cpus(self) -> int:
        """CPUs of the whole cluster."""
        import ray

        self.ray()
        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def gpus(self) -> int:
        """GPUs of the whole cluster."""
        import ray

        self.ray()
        return int(ray.cluster_resources().get("GPU", 0))

    def stage_started(self, name: str, key: str) -> None:
        self.store.check_writable()
        self.ray()
        log.info("stage %s %s started", name, key)

    @contextlib.contextmanager
    def progress(self, label: str, total: int, unit: str) -> Iterator[progress.Bar]:
        with progress.bar(self.console, label, total, unit) as shown:
            yield shown

    @contextlib.contextmanager
    def remote_progress(self, label: str, total: int, unit: str) -> Iterator[Any]:
        """Yields a Ray actor handle: workers call its `report(done, note)` and `say(line)`."""
        self.ray()
        with progress.remote_bar(self.console, label, total, unit, self.say) as board:
            yield board

    def say(self, text: str) -> None:
        """A line for the person in front of the screen, and for the log."""
        self.console.print(f"  {text}", highlight=False, markup=False)
        log.info("%s", text)

    def _send_output_to_log(self, path: Path) -> None:
        """Ray and its libraries write to descriptors 1 and 2 from everywhere; a file is the place for it.

        The console goes on writing to what descriptor 1 was.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.console.file.flush()
        self._saved = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
        self._screen = self.console.file
        self.console.file = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
        log_descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for descriptor, _ in self._saved:
            os.dup2(log_descriptor, descriptor)
        os.close(log_descriptor)
        logging.basicConfig(
            filename=path,
            level=logging.INFO,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            force=True,
        )

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
