"""Actors of Ray in the process of the test, for what does not depend on where they are."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any


class Handle:
    """An actor's handle whose actor is in this process: `method.remote(…)` is what the method returned."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            result = getattr(self.actor, name)(*arguments)
            return asyncio.run(result) if asyncio.iscoroutine(result) else result

        return SimpleNamespace(remote=call)
