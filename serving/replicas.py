"""Serve deployments behind the HTTP ingress: the model engine and the passage search."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import itertools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from headwater.cluster.errors import HeadwaterError
from headwater.llm.examples.chat import encode_prompt
from headwater.llm.grounding.passages import Passage
from headwater.llm.inference import device_of
from headwater.llm.inference.base import Engine, Token
from headwater.serving import traces
from headwater.serving.answers.answer import answer
from headwater.serving.answers.complete import check_tokens, complete
from headwater.serving.answers.decisions import Decision, Decisions, Past
from headwater.serving.answers.events import CompletionJob, Delta, Event, Job, Spoken
from headwater.serving.answers.outbox import Outbox
from headwater.serving.answers.token_text import spoken
from headwater.serving.config import AppConfig
from headwater.serving.errors import ApiError
from headwater.serving.loaded import LoadedModels
from headwater.serving.models import ModelList, Served
from headwater.serving.retrieval.changes import Change
from headwater.serving.retrieval.embed import load_embedder
from headwater.serving.retrieval.passages import Filters
from headwater.serving.retrieval.search import Found, PassageIndex
from headwater.serving.web.config import WebConfig
from headwater.serving.web.live import LiveWeb
from headwater.serving.web.pages import Page, Read, segment_of

if TYPE_CHECKING:
    import numpy as np

MESSAGE_SECONDS, LONGEST_PAUSE = 0.008, 0.1
"""A stream waits this many seconds between its messages for each stream of the replica, and no longer than
this many in all: a message costs more time than a token of a small model."""
T = TypeVar("T")


def _refusing(call: Callable[..., T]) -> Callable[..., Awaitable[T | ApiError]]:
    """Make a call in a thread, and return what refuses it: Serve would wrap an error that is raised."""

    @functools.wraps(call)
    async def called(*args: Any) -> T | ApiError:
        try:
            return await asyncio.to_thread(call, *args)
        except ApiError as error:
            return error
        except HeadwaterError as error:
            return ApiError(400, str(error), code="invalid_value")

    return called


class EngineReplica:
    """One replica of the model. Answers are made in threads, so the actor stays responsive; the tokens of
    all of them are generated in one batch."""

    def __init__(self, config: AppConfig) -> None:
        """Loads the models that the endpoint has by now."""
        assert config.backend != "auto", "`AppConfig.resolved`"
        device = device_of(config.engine.gpus)
        self._list = ModelList(config)
        self._models = LoadedModels(
            device, config.threads, config.backend, config.quantize, self._list.check_same
        )
        self._models.preload(self._list.now.values())
        self._looked = time.monotonic()
        self._following: asyncio.Future[None] | None = None
        self._streams = 0
        self._pool = ThreadPoolExecutor(config.parallel_requests, thread_name_prefix="answer")
        self._embedder = functools.cache(lambda: load_embedder(config.embedding))

    async def check_health(self) -> None:
        """Called by Serve: follows the list of models."""
        due = time.monotonic() - self._looked >= self._list.pause
        if due and (self._following is None or self._following.done()):
            self._looked = time.monotonic()
            self._following = asyncio.get_running_loop().run_in_executor(None, self.follow)

    @property
    def engine(self) -> Any:
        """Of the first model."""
        with self._models.use(self._list.first) as engine:
            return engine

    @property
    def loaded(self) -> list[Served]:
        """The models in its memory."""
        return self._models.held

    def follow(self) -> None:
        """Load what has been added to the list, and drop what is on it no longer."""
        self._list.look()
        for served in (listed := list(self._list.now.values())):
            with contextlib.suppress(ApiError), self._models.use(served):
                pass  # what cannot be loaded is logged, and told to whoever asks for it
        self._models.keep_only(listed)

    @_refusing
    def load(self, model: Served) -> None:
        """Have a model ready, for an admin."""
        with self._models.use(model, admin=True):
            pass

    async def answer(self, job: Job, past: Past) -> AsyncIterator[list[Event | Decision | ApiError]]:
        """Yield the events of an answer and what they are made of, each time all that are ready. An ApiError
        comes last, if the request cannot be answered.

        Of an answer with a past (another replica began it) only what follows. When the client disconnects,
        Serve closes this generator and the thread stops at its next token.
        """
        events: Outbox[Event | Decision | ApiError] = Outbox(
            self._pause, after=lambda event: isinstance(event, Delta)
        )
        gone, phases = threading.Event(), traces.Phases("queue")

        def decided(decision: Decision) -> None:
            phases.begin("decode")
            events.put(decision)

        def work() -> None:
            failure: Exception | None = None
            phases.begin("prefill")
            try:
                make: Any = complete if isinstance(job, CompletionJob) else answer
                with self._models.use(job.model or self._list.first) as engine:
                    all_events = make(engine, job, gone, Decisions(past, decided))
                    for event in itertools.islice(all_events, past.events, None):
                        if gone.is_set():
                            return
                        events.put(event)
            except ApiError as error:
                events.put(error)
            except HeadwaterError as error:
                events.put(ApiError(400, str(error), code="invalid_value"))
            except Exception as error:  # noqa: BLE001 - raised again in the consumer
                traces.failed(phases.span, error)
                failure = error
            finally:
                phases.span.end()
                events.close(failure)

        self._pool.submit(contextvars.copy_context().run, work)
        self._streams += 1
        try:
            async for ready in events.batches():
                yield ready
        finally:
            self._streams -= 1
            gone.set()

    def _pause(self) -> float:
        return min(MESSAGE_SECONDS * self._streams, LONGEST_PAUSE)

    @_refusing
    def tokenize(
        self, model: Served, text: str | list[dict[str, Any]], special: bool
    ) -> tuple[int, list[Spoken]]:
        """The model's context in tokens, and the tokens of a text, or of the prompt that a conversation
        makes."""
        with self._models.use(model) as engine:
            tokenizer = engine.tokenizer
            if isinstance(text, str):
                encoded: Any = tokenizer(text, add_special_tokens=special, split_special_tokens=True)
                ids = list(encoded["input_ids"])
            else:
                ids = encode_prompt(tokenizer, text)
            return engine.context, list(spoken(tokenizer, [Token(number, 0.0) for number in ids]))

    @_refusing
    def detokenize(self, model: Served, ids: list[int]) -> str:
        with self._models.use(model) as engine:
            return _decoded(engine, ids, "tokens")

    @_refusing
    def embed(self, model: Served, texts: list[str | list[int]]) -> tuple[np.ndarray, int]:
        """Vectors of unit length, float32 [texts, dimensions], and the number of tokens. Ids are decoded by
        the model's tokenizer."""
        with self._models.use(model) as engine:
            plain = [each if isinstance(each, str) else _decoded(engine, each, "input") for each in texts]
            encoded: Any = engine.tokenizer(plain, add_special_tokens=False, split_special_tokens=True)
            return self._embedder()(plain), sum(map(len, encoded["input_ids"]))


def _decoded(engine: Engine, ids: list[int], param: str) -> str:
    check_tokens(engine, ids, param)
    return str(engine.tokenizer.decode(ids))


class RetrievalReplica:
    """One replica of the passage search."""

    def __init__(self, index: str) -> None:
        self._index = PassageIndex(index)

    async def search(
        self,
        query: str,
        limit: int,
        per_document: int,
        min_relevance: float,
        pages: Sequence[Page] = (),
    ) -> list[Passage]:
        """The best passages of the index and of pages of the live web together."""

        def found() -> list[Passage]:
            web = segment_of(pages) if pages else None
            return self._index.search(query, limit, per_document, min_relevance, web)

        return await asyncio.to_thread(found)

    async def find(
        self, query: str, limit: int, per_document: int, min_relevance: float, filters: Filters
    ) -> list[Found]:
        return await asyncio.to_thread(self._index.find, query, limit, per_document, min_relevance, filters)

    async def put(self, change: Change) -> int:
        return await asyncio.to_thread(self._index.changes.put, change)

    async def delete(self, url: str) -> bool:
        return await asyncio.to_thread(self._index.changes.delete, url)

    async def documents(self, url: str, limit: int, offset: int) -> tuple[int, list[dict[str, str]]]:
        """Number of documents (of a URL, if one is given), and some of them."""

        def page() -> tuple[int, list[dict[str, str]]]:
            found = [each for each in self._index.changes.documents() if not url or each["url"] == url]
            return len(found), found[offset : offset + limit]

        return await asyncio.to_thread(page)


class WebReplica:
    """One replica of what reads the live web. Requests wait in its event loop, apart from the model's."""

    def __init__(self, config: WebConfig, embedding: str, passage_words: int, overlap_words: int) -> None:
        self._web = LiveWeb(config, embedding, passage_words, overlap_words)
        self._web.warm()

    async def read(self, urls: Sequence[str], query: str) -> Read:
        """When the client disconnects, Serve cancels this call, and with it the requests that it sends."""
        return await self._web.read(urls, query)

    async def search(
        self, query: str, limit: int, per_document: int, min_relevance: float, pages: Sequence[Page]
    ) -> list[Passage]:
        return await asyncio.to_thread(self._web.rank, query, limit, per_document, min_relevance, pages)
