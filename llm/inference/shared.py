"""One engine for many threads: the sequences of all of them run in one batch."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from headwater.cluster.errors import HeadwaterError
from headwater.llm.inference.base import Batch, Engine, Event, Limits, Sampling, Token

if TYPE_CHECKING:
    from headwater.llm.inference.forward.low_rank import Adapter

log = logging.getLogger("headwater")

PREFIX_MEMORY = 1 << 29
"""Bytes for prefixes: some 11,000 positions of SmolLM2-135M in fp32."""


class SharedEngine:
    """Implements `Engine`. A thread of its own steps the batch of all streams; the rest is the engine's."""

    def __init__(self, engine: Engine, limits: Limits | None = None) -> None:
        self.tokenizer, self.context = engine.tokenizer, engine.context
        self.generate, self.score, self.batch = engine.generate, engine.score, engine.batch
        self.read, self.prepare = engine.read, engine.prepare
        self.engine, self._limits = engine, limits or Limits(prefixes=PREFIX_MEMORY)
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._streams: dict[int, _Stream] = {}
        self._batch: Batch = engine.batch(self._limits)
        self._stopped = False
        threading.Thread(target=self._run, name="batch", daemon=True).start()

    def stream(
        self,
        prompt: list[int],
        sampling: Sampling,
        said: Sequence[int] = (),
        adapter: Adapter | None = None,
    ) -> _Stream:
        """As `Engine.stream`, but it runs at once, whether its tokens are taken or not. `adapter`: if
        the engine has any.

        Taking a token raises what the engine raised. A schema is compiled in the caller's thread: some take
        seconds, in which nobody else's text would go on.
        """
        stream = _Stream(lambda: self._calls.put(lambda: self._cancel(stream)))
        if sampling.max_tokens < 1:
            stream.events.put(None)
        elif (refusal := self._prepared(sampling.schema)) is not None:
            stream.events.put(refusal)
        else:
            self._calls.put(lambda: self._submit(stream, prompt, sampling, said, adapter))
        return stream

    def stop(self) -> None:
        """End its thread, and with it what holds the model. No stream may run."""

        def stopped() -> None:
            self._stopped = True

        self._calls.put(stopped)

    @property
    def backend(self) -> str:
        return self.engine.backend

    @property
    def precision(self) -> str:
        return self.engine.precision

    @property
    def prefix_tokens(self) -> tuple[int, int]:
        """Tokens of prompts that were copied from a kept prefix, and all tokens of prompts, so far."""
        prefixes = self._batch.prefixes
        return prefixes.found, prefixes.asked

    def _prepared(self, schema: str | None) -> HeadwaterError | None:
        try:
            if schema is not None:
                self.engine.prepare(schema)
        except HeadwaterError as error:
            return error
        return None

    def _run(self) -> None:
        while not self._stopped:
            while not self._calls.empty() or self._batch.idle:
                self._calls.get()()
                if self._stopped:
                    return
            try:
                events = self._batch.step()
            except Exception as error:
                log.exception("the model failed")
                for stream in self._streams.values():
                    stream.events.put(error)
                self._streams, self._batch = {}, self.engine.batch(self._limits)
                continue
            for event in events:
                if event.handle in self._streams:
                    self._streams[event.handle].events.put(event)
                    if event.finish_reason:
                        del self._streams[event.handle]

    def _submit(
        self,
        stream: _Stream,
        prompt: list[int],
        sampling: Sampling,
        said: Sequence[int],
        adapter: Adapter | None,
    ) -> None:
        own: dict[str, Any] = {"adapter": adapter} if adapter else {}
        try:
            stream.handle = self._batch.submit(prompt, sampling, said=said, **own)
        except Exception as error:  # noqa: BLE001 - raised again where the stream is read
            stream.events.put(error)
        else:
            if stream.handle:
                self._streams[stream.handle] = stream
            else:
                stream.events.put(None)

    def _cancel(self, stream: _Stream) -> None:
        if self._streams.pop(stream.handle, None) is not None:
            self._batch.cancel(stream.handle)


class _Stream(Iterator[Token]):
    """The tokens of one sequence, which `close` cancels."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self.events: queue.SimpleQueue[Event | Exception | None] = queue.SimpleQueue()
        self.handle = -1
        self._cancel, self._ended = cancel, False

    def __next__(self) -> Token:
        event = None if self._ended else self.events.get()
        if event is None or isinstance(event, Exception):
            self._ended = True
            raise event or StopIteration
        self._ended = event.finish_reason is not None
        return event.token

    def close(self) -> None:
        if not self._ended:
            self._ended = True
            self._cancel()
