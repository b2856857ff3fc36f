"""Answers and searches that outlive the replica that makes them.

A replica is lost with its process or its node. What it has sent of an answer holds what it had decided
(`answers.decisions`), so another one goes on with the next event; nothing is sent twice or taken back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import TypeVar, cast

from opentelemetry.trace import INVALID_SPAN, Span
from prometheus_client import Counter
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from headwater.serving import traces
from headwater.serving.answers.decisions import Decision, Past
from headwater.serving.answers.events import CompletionJob, Event, Finished, Job
from headwater.serving.errors import ApiError

log = logging.getLogger("headwater")

LOST = (RayActorError, NodeDiedError, ObjectLostError, WorkerCrashedError)
"""What Ray raises for a process that is gone. An error that the replica's own code raises is none of them."""
MOST_REPLICAS = 8
"""Replicas that one request is given to. What ends each replica that it comes to ends no more."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds before a request is given to another replica where the last one did nothing for it."""
T = TypeVar("T")


class Attempts:
    """Decides whether a request whose replica was lost is given to another one."""

    def __init__(self, seconds: float, resumed: Counter) -> None:
        """`seconds`: longest time without progress since a loss; 0: a loss is an error at once."""
        self._seconds, self._resumed = seconds, resumed
        self._losses, self._pause = 0, 0.0
        self.until: float | None = None
        """When the present attempt must have made progress, by the event loop's clock. None: at any time."""

    def progressed(self) -> None:
        self.until, self._pause = None, 0.0

    async def after(self, error: Exception) -> None:
        """Returns when it is time for another attempt. Raises `error` if there is none."""
        queued = isinstance(error, BackPressureError) and self.until is not None
        if not queued:
            self._losses += 1
            if not isinstance(error, LOST) or not self._seconds or self._losses == MOST_REPLICAS:
                raise error
            self._resumed.inc()
            log.warning("a replica was lost (%s); the request goes to another one", type(error).__name__)
        now = asyncio.get_running_loop().time()
        self.until = now + self._seconds if self.until is None else self.until
        if now + self._pause >= self.until:
            raise error
        await asyncio.sleep(self._pause)
        self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)


async def again(call: Callable[[], Awaitable[T]], attempts: Attempts) -> T:
    """What a call without effects returns. Raises TimeoutError where no replica came in time."""
    while True:
        try:
            async with asyncio.timeout_at(attempts.until):
                return await call()
        except (*LOST, BackPressureError) as error:
            await attempts.after(error)


async def resumed(
    streams: DeploymentHandle, job: Job, attempts: Attempts, span: Span = INVALID_SPAN
) -> AsyncGenerator[list[Event | ApiError], None]:
    """The events of an answer, each time some. Raises what ends it, and TimeoutError as `again`.

    `span`: the answer's; the replicas' spans are below it.
    """
    past = Past()
    unfinished = job.choices * (len(job.prompts) if isinstance(job, CompletionJob) else 1)
    while True:
        with traces.within(span):
            call = cast(DeploymentResponseGenerator, streams.answer.remote(job, past))
        try:
            while True:
                async with asyncio.timeout_at(attempts.until):
                    received = await anext(call, None)
                if received is None and unfinished:
                    raise WorkerCrashedError  # a replica on its way out may end what it sends in good order
                if received is None:
                    return
                attempts.progressed()
                events = []
                for each in received:
                    if isinstance(each, Decision):
                        past.add(each)
                    else:
                        past.events += 1
                        unfinished -= isinstance(each, Finished)
                        unfinished = 0 if isinstance(each, ApiError) else unfinished
                        events.append(each)
                if events:
                    yield events
        except (*LOST, BackPressureError) as error:
            span.add_event("replica lost", {"error.type": type(error).__name__})
            await attempts.after(error)
        finally:
            call.cancel()  # no-op if the call has ended


def seeded(job: Job) -> Job:
    """The job with a seed, without which two replicas would not choose the same."""
    if job.sampling.seed is not None:
        return job
    return replace(job, sampling=replace(job.sampling, seed=secrets.randbits(63)))
