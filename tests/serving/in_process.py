"""The endpoint's own parts in this process, behind a real HTTP server: all but Serve between them."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import uvicorn
from ray.exceptions import ActorDiedError

from headwater.serving.api.ingress import Ingress
from headwater.serving.config import AppConfig
from headwater.serving.replicas import EngineReplica, RetrievalReplica, WebReplica


class Handle:
    """As Serve's handle of a deployment: calls go to one replica in this process."""

    def __init__(self, replica: Any, stream: bool = False) -> None:
        self._replica, self._stream = replica, stream

    def options(self, stream: bool = False) -> Handle:
        return Handle(self._replica, stream)

    def __getattr__(self, name: str) -> Any:
        return _Method(getattr(self._replica, name), self._stream)


class _Method:
    def __init__(self, method: Any, stream: bool) -> None:
        self._method, self._stream = method, stream

    def remote(self, *args: Any) -> Any:
        called = self._method(*pickle.loads(pickle.dumps(args)))
        return _Stream(called) if self._stream else called


class _Stream:
    def __init__(self, events: Any) -> None:
        self._events = events

    def __aiter__(self) -> Any:
        return self._events

    def __anext__(self) -> Any:
        return anext(self._events)

    def cancel(self) -> None:
        self._closing = asyncio.ensure_future(self._events.aclose())


class MortalHandle(Handle):
    """Real replicas take turns to answer. Each breaks off after so many items of its stream, as if it had
    been killed, or (None) lives; the last entry of `lives` holds for all later calls."""

    def __init__(
        self,
        replicas: Sequence[Any],
        lives: Sequence[int | None],
        error: type[Exception] | None = ActorDiedError,
    ) -> None:
        """`error`: what is raised then; None: the stream ends as if that were all."""
        super().__init__(replicas[0])
        self.replicas, self.lives, self.error, self.calls = replicas, lives, error, 0
        self.items: list[Any] = []
        """All that callers received."""

    def options(self, stream: bool = False) -> Handle:
        return self if stream else self.__class__(self.replicas, self.lives, self.error)

    @property
    def answer(self) -> Any:
        replica = self.replicas[self.calls % len(self.replicas)]
        life = self.lives[min(self.calls, len(self.lives) - 1)]
        self.calls += 1
        return _Method(lambda *args: self._mortal(replica.answer(*args), life), True)

    async def _mortal(self, answered: Any, life: int | None) -> AsyncIterator[list[Any]]:
        async with contextlib.aclosing(answered):
            async for several in answered if life != 0 else _nothing():
                for each in several:
                    self.items.append(each)
                    yield [each]
                    life = None if life is None else life - 1
                    if life == 0:
                        break
                if life == 0:
                    break
        if life == 0 and self.error is not None:
            raise self.error


async def _nothing() -> AsyncIterator[Any]:
    for each in list[Any]():
        yield each


def ingress_of(config: AppConfig, engine: Any = None) -> Any:
    """The ASGI application of a configuration. `engine`: the handle of its model; default: a new one."""
    search = Handle(RetrievalReplica(config.index)) if config.index else None
    web = Handle(WebReplica(*config.web_arguments)) if config.web else None
    handles: Any = (engine or Handle(EngineReplica(config)), search, web)
    return Ingress(config, *handles).__serve_build_asgi_app__()


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an ASGI application on a free port of the loopback; its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "it did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
