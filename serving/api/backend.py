"""What the routes share: the settings, the model, the search, the metrics, and the one queue before them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from headwater.llm.inference.base import Sampling
from headwater.serving import traces
from headwater.serving.answers.events import AnswerJob, CompletionJob, Delta, Event, Finished, Job, Started
from headwater.serving.api.bodies import Usage, usage
from headwater.serving.api.keys.auth import NO_KEY, Key, Limits
from headwater.serving.api.keys.key_file import KeyFile
from headwater.serving.api.keys.quotas import Quotas
from headwater.serving.api.keys.usage import Ledger
from headwater.serving.api.limits import RETRY_SECONDS, PerMinute, overloaded
from headwater.serving.api.metrics import Metrics
from headwater.serving.api.resuming import Attempts, again, resumed, seeded
from headwater.serving.config import AppConfig
from headwater.serving.errors import ApiError
from headwater.serving.models import ModelList, Served

log = logging.getLogger("headwater")

WARM_SECONDS = 120.0
"""Longest wait of a new replica for the model and the search; then it serves, and says what they lack."""


class Backend:
    """The parts behind one replica of the ingress. Its only state: metrics, requests in progress, and how
    much each rater has sent."""

    def __init__(
        self,
        config: AppConfig,
        engine: DeploymentHandle,
        retrieval: DeploymentHandle | None,
        web: DeploymentHandle | None,
        replica: str,
    ) -> None:
        """`replica`: its name in the metrics; empty if there is only one."""
        self.config, self.retrieval, self.web = config, retrieval, web
        self._engine, self._streams = engine, engine.options(stream=True)
        self.models = ModelList(config)
        self.key_file = KeyFile(config.api_keys)
        self.metrics = Metrics(replica)
        self.rankings = PerMinute(config.rankings_per_minute)
        self.ledger = Ledger(config.store if self.keys else "", alone=config.api.max_replicas == 1)
        defaults = {name: getattr(config, name) for name in Limits.__dataclass_fields__}
        self.quotas = Quotas(Limits(**defaults), self.ledger)
        self.created = int(time.time())
        self._answering = 0

    @property
    def keys(self) -> tuple[Key, ...]:
        """Those of the file as it is now; none where no key is asked for."""
        return self.key_file.now()

    @property
    def full(self) -> bool:
        """Whether as many requests are answered or wait as may."""
        return self._answering >= self.config.max_requests

    def model(self, name: str | None) -> Served:
        """The model of a name; without a name the first. Raises ApiError 404 that lists what there is."""
        found = self.models.first if name is None else self.models.now.get(name)
        if found is None:
            names = ", ".join(f"`{each}`" for each in self.models.now)
            message = f"The model `{(name or '')[:100]}` does not exist. This server has {names}."
            raise ApiError(404, message, code="model_not_found", param="model")
        return found

    async def follow_models(self) -> None:
        """Take changes of the list of models, until it is cancelled."""
        while True:
            await asyncio.sleep(self.models.pause)
            await asyncio.to_thread(self.models.look)

    async def answer(
        self, make: Callable[[], Awaitable[Job]], model: Served, started: float, key: Key = NO_KEY
    ) -> AsyncGenerator[Event, None]:
        """Make the job for a model, then yield the events of its answer, whose tokens count for `key`.

        Raises ApiError 429 before anything else where too many requests wait or the key has no tokens left.
        `started`: by `time.monotonic`.
        """
        self.quotas.check_tokens(key)
        if self.full:
            raise overloaded()
        self._answering += 1
        self.metrics.in_progress.inc()
        meter = Meter(self.quotas, key, model.name)
        span = traces.start("answer", **{"gen_ai.request.model": model.name})
        try:
            with parts_explained():
                with traces.within(span):
                    job = seeded(replace(await make(), model=model))
                self.metrics.answers.labels(model.name).inc()
                spoken = False
                async with contextlib.aclosing(resumed(self._streams, job, self._attempts(), span)) as parts:
                    async for events in parts:
                        for event in events:
                            if isinstance(event, ApiError):
                                raise event
                            meter.read(event)
                            if isinstance(event, Delta) and not spoken:
                                spoken = True
                                self.metrics.first_token_seconds.observe(time.monotonic() - started)
                            if isinstance(event, Started) and isinstance(job, AnswerJob):
                                event = replace(event, web=job.web)
                            yield event
        except Exception as error:
            traces.failed(span, error)
            raise
        finally:
            meter.close()
            span.set_attribute("gen_ai.usage.input_tokens", meter.prompt_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", meter.completion_tokens)
            span.end()
            self._answering -= 1
            self.metrics.in_progress.dec()

    async def warm(self) -> None:
        """Send one search and one token through the parts: their first use takes seconds, on a busy machine
        many. The replica is not healthy before. What fails is logged; it fails again for whoever asks."""
        job = CompletionJob(["warm"], Sampling(1))
        try:
            async with asyncio.timeout(WARM_SECONDS):
                with parts_explained():
                    if self.retrieval is not None:
                        await self.retrieval.search.remote("warm", 1, 1, self.config.min_relevance, ())
                    async for _ in resumed(self._streams, job, self._attempts()):
                        pass
        except (ApiError, TimeoutError):
            log.warning("the parts did not warm up", exc_info=True)

    async def call(self, method: str, *args: Any) -> Any:
        """What a method of the model's replica returns. Raises ApiError for what it refuses, too."""
        result = await self.ask(self._engine, method, *args)
        if isinstance(result, ApiError):
            raise result
        return result

    async def ask(self, part: DeploymentHandle, method: str, *args: Any) -> Any:
        """What a method without effects returns, of another replica where one is lost. Raises ApiError."""
        with parts_explained(), traces.spanned(method):
            return await again(lambda: getattr(part, method).remote(*args), self._attempts())

    def _attempts(self) -> Attempts:
        return Attempts(self.config.resume_seconds, self.metrics.resumed)

    def count(self, model: str, first: Started, ends: Sequence[Finished]) -> Usage:
        """Count the tokens and citations of an answer in the metrics. Returns its usage."""
        used = usage(first.prompt_tokens, sum(end.completion_tokens for end in ends))
        self.metrics.tokens.labels("prompt", model).inc(used["prompt_tokens"])
        self.metrics.tokens.labels("completion", model).inc(used["completion_tokens"])
        self.metrics.citations.inc(sum(len(end.citations) for end in ends))
        return used


class Meter:
    """Counts the tokens of one answer for a key, also of one that its client does not read to the end."""

    def __init__(self, quotas: Quotas, key: Key, model: str) -> None:
        self._quotas, self._of = quotas, (key, model)
        self._pieces: dict[int, int] = {}
        """Choice → its pieces of text so far; each has a token at least."""
        self.prompt_tokens, self.completion_tokens = 0, 0

    def read(self, event: Event) -> None:
        if isinstance(event, Started):
            self.prompt_tokens = event.prompt_tokens
            self._quotas.spent(*self._of, prompt=event.prompt_tokens)
        elif isinstance(event, Delta):
            self._pieces[event.choice] = self._pieces.get(event.choice, 0) + 1
        elif isinstance(event, Finished):
            self._pieces.pop(event.choice, None)
            self.completion_tokens += event.completion_tokens
            self._quotas.spent(*self._of, completion=event.completion_tokens)

    def close(self) -> None:
        """Count what was read of choices that have not finished."""
        if cut := sum(self._pieces.values()):
            self.completion_tokens += cut
            self._quotas.spent(*self._of, completion=cut)


@contextlib.contextmanager
def parts_explained() -> Iterator[None]:
    """ApiError 429 if the model or the search is overloaded, 503 if it has failed."""
    try:
        yield
    except BackPressureError as error:
        raise overloaded() from error
    except (RayError, RayServeException, TimeoutError) as error:
        log.exception("the model or the search failed")
        raise ApiError(
            503, "A part of this server is not available.", code="unavailable", retry_after=RETRY_SECONDS
        ) from error
