"""The models in the memory of one replica: each loaded when it is first asked for, and dropped when it is no
longer listed and nothing uses it."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.inference import load_engine
from headwater.llm.inference.adapted import AdaptedEngine
from headwater.llm.inference.base import Sampling
from headwater.llm.inference.parity import FILE as PARITY
from headwater.llm.inference.parity import check_record
from headwater.llm.inference.shared import SharedEngine
from headwater.serving.answers.complete import complete
from headwater.serving.answers.events import CompletionJob
from headwater.serving.errors import ApiError
from headwater.serving.models import Served, record_of

if TYPE_CHECKING:
    from headwater.llm.inference.backends import Backend, Quantize
    from headwater.llm.inference.base import Engine

log = logging.getLogger("headwater")


class _Held:
    """One model; `engine` is None while it is being loaded."""

    def __init__(self) -> None:
        self.lock, self.uses = threading.Lock(), 0
        self.engine: Engine | None = None


class LoadedModels:
    """Thread-safe. The weights of a base are there once, whatever adapters it has."""

    def __init__(
        self,
        device: str,
        threads: int | None,
        backend: Backend = "torch",
        quantize: Quantize = "none",
        check: Callable[[Served], None] = Served.check_same,
    ) -> None:
        """`check`: raises HeadwaterError for a model whose files are no longer its own."""
        self._device, self._threads = device, threads
        self._backend, self._quantize = backend, quantize
        self._check = check
        self._held: dict[Served, _Held] = {}
        self._lock = threading.Lock()

    @property
    def held(self) -> list[Served]:
        return list(self._held)

    def preload(self, models: Iterable[Served]) -> None:
        """Before the replica counts as ready. Raises HeadwaterError where `use` raises ApiError."""
        for served in sorted(models, key=lambda each: each.base is not None):
            if served not in self._held:
                held = _Held()
                held.engine = self._load(served)
                self._held[served] = held

    @contextlib.contextmanager
    def use(self, served: Served, *, admin: bool = False) -> Iterator[Engine]:
        """The engine of a model, which stays until the block ends.

        Raises ApiError 503 for one that cannot be loaded, does not give the log-probabilities recorded with
        it, or whose files are no longer those that were listed; only an admin is told which.
        """
        with self._lock:
            held = self._held.setdefault(served, _Held())
            held.uses += 1
        try:
            with held.lock:
                if held.engine is None:
                    held.engine = self._loaded(served, admin)
            yield held.engine
        finally:
            with self._lock:
                held.uses -= 1
                if held.engine is None and not held.uses:
                    self._held.pop(served, None)

    def keep_only(self, listed: Collection[Served]) -> None:
        """Drop what is neither listed, nor in use, nor the base of an adapter that is here."""
        with self._lock:
            for served in sorted(self._held, key=lambda each: each.base is None):  # adapters first
                needed = served in listed or any(each.base == served for each in self._held)
                if not needed and not self._held[served].uses:
                    engine = self._held.pop(served).engine
                    if isinstance(engine, SharedEngine):
                        engine.stop()
                    log.info("the model %s in %s was dropped", served.name, served.folder)

    def _loaded(self, served: Served, admin: bool) -> Engine:
        try:
            return self._load(served)
        except HeadwaterError as error:
            log.error("the model %s cannot be loaded: %s", served.name, error)
            why = str(error) if admin else "the server's log says why."
            message = f"The model `{served.name}` cannot be loaded: {why}"
            raise ApiError(503, message, code="model_unavailable", param="model") from error

    def _load(self, served: Served) -> Engine:
        self._check(served)
        made = self._opened(served)
        self._check(served)  # nobody has written into the folder meanwhile
        if (record := record_of(served)) is not None:
            check_record(record.read_bytes(PARITY).decode(), record.path(PARITY), made)
        warm(made)
        return made

    def _opened(self, served: Served) -> SharedEngine | AdaptedEngine:
        if served.base is None:
            engine = load_engine(
                served.folder,
                device=self._device,
                threads=self._threads,
                backend=self._backend,
                quantize=self._quantize,
            )
            return SharedEngine(engine)
        with self.use(served.base) as base:
            assert isinstance(base, SharedEngine)
            shared: Any = base.engine
            local = Artifact(served.folder).local()
            return AdaptedEngine(base, shared.adapter(local), _own_tokenizer(served, shared.tokenizer))


def warm(engine: Engine) -> None:
    """One short completion, and one that follows a schema: what a model loads, compiles and builds when it is
    first used is not paid for by the first request. Raises what the model raises."""
    for _ in complete(engine, CompletionJob(["warm"], Sampling(1))):
        pass
    with contextlib.suppress(HeadwaterError):  # some tokenizers cannot; whoever sends a schema is told
        for _ in complete(engine, CompletionJob(["warm"], Sampling(8, schema='{"type": "boolean"}'))):
            pass


def _own_tokenizer(served: Served, base: Any) -> Any:
    """The tokenizer that an adapter was trained with, if it is in its folder or that of Headwater's export.

    Raises HeadwaterError if its ids are not the base's.
    """
    from transformers import AutoTokenizer

    above = served.folder.rstrip("/").rpartition("/")[0]
    exported = [above] if Artifact(above).exists("config.json") else []
    for folder in (served.folder, *exported):
        if Artifact(folder).exists("tokenizer.json"):
            own: Any = AutoTokenizer.from_pretrained(str(Artifact(folder).local()), local_files_only=True)
            if own.get_vocab() != base.get_vocab():
                raise HeadwaterError(
                    "the adapter's tokenizer has other ids than its base's",
                    where=folder,
                    fix="name the model that it was trained on as its `base`",
                )
            return own
    return None
