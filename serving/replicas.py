"""Serve deployments behind the HTTP ingress: the model engine and the passage search."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.grounding.passages import Passage
from headwater.llm.inference import device_of, load_engine
from headwater.serving.answers.answer import AnswerJob, Event, answer
from headwater.serving.errors import ApiError
from headwater.serving.retrieval.search import PassageIndex


class EngineReplica:
    """One replica of the model. Answers are generated in threads, so the actor stays responsive."""

    def __init__(self, folder: str, threads: int | None, parallel_requests: int, gpus: float = 0.0) -> None:
        self._engine = load_engine(Artifact(folder).local(), device=device_of(gpus), threads=threads)
        self._pool = ThreadPoolExecutor(parallel_requests, thread_name_prefix="answer")

    async def answer(self, job: AnswerJob) -> AsyncIterator[Event | ApiError]:
        """Yield the events of an answer, or an ApiError if the request cannot be answered.

        When the client disconnects, Serve closes this generator and the thread stops at its next token.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | ApiError | BaseException | None] = asyncio.Queue()
        gone = threading.Event()

        def put(event: Event | ApiError | BaseException | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def work() -> None:
            try:
                for event in answer(self._engine, job, gone):
                    if gone.is_set():
                        return
                    put(event)
                put(None)
            except ApiError as error:
                put(error)
                put(None)
            except HeadwaterError as error:
                put(ApiError(400, str(error), code="invalid_value"))
                put(None)
            except Exception as error:  # noqa: BLE001 - raised again in the consumer
                put(error)

        self._pool.submit(work)
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, BaseException) and not isinstance(event, ApiError):
                    raise event
                yield event
        finally:
            gone.set()


class RetrievalReplica:
    """One replica of the passage search."""

    def __init__(self, index: str) -> None:
        self._index = PassageIndex(index)

    async def search(self, query: str, limit: int, per_document: int, min_relevance: float) -> list[Passage]:
        return await asyncio.to_thread(self._index.search, query, limit, per_document, min_relevance)
