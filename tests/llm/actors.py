"""Actors of Ray in the process of the test, for what does not depend on where they are."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray


class Handle:
    """An actor's handle whose actor is in this process: `method.remote(…)` is what the method returned."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what pickle looks for
            raise AttributeError(name)

        def call(*arguments: Any, **named: Any) -> Any:
            result = getattr(self.actor, name)(*arguments, **named)
            return asyncio.run(result) if asyncio.iscoroutine(result) else result

        return SimpleNamespace(remote=call)


def at_once(change: Callable[[Any, str, Any], None] = setattr) -> None:
    """Object references are the objects themselves, and what was asked for is there. `change` is `setattr`
    in a process that ends with its test, `monkeypatch.setattr` in another."""
    change(ray, "get", lambda reference: reference)
    change(ray, "put", lambda value: value)
    change(ray, "wait", lambda references, num_returns, timeout: (references, []))


def actors_here(monkeypatch: pytest.MonkeyPatch, *kinds: type) -> None:
    """Actors of these kinds are made in this process, and what their methods return is there at once."""
    remote, get, kill = ray.remote, ray.get, ray.kill
    local = {kind: SimpleNamespace(remote=functools.partial(_made, kind)) for kind in kinds}

    def made(*arguments: Any, **options: Any) -> Any:
        if arguments:
            return remote(*arguments, **options)
        return lambda kind: local.get(kind) or remote(**options)(kind)

    def got(reference: Any, **options: Any) -> Any:
        here = (
            [each for each in reference if not isinstance(each, ray.ObjectRef)]
            if isinstance(reference, list)
            else []
        )
        return reference if here else get(reference, **options)

    monkeypatch.setattr(ray, "remote", made)
    monkeypatch.setattr(ray, "get", got)
    monkeypatch.setattr(ray, "kill", lambda actor: None if isinstance(actor, Handle) else kill(actor))


def _made(kind: Callable[..., Any], *arguments: Any, **settings: Any) -> Handle:
    return _Later(functools.partial(kind, *arguments, **settings))


class _Later(Handle):
    """Its actor is made when it is asked first, in whichever process that is."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    @functools.cached_property
    def actor(self) -> Any:
        return self.make()
