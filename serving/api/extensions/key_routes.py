"""`/console/api/keys`: the keys of the endpoint and what they have used, for keys of the role `admin`.

A key is shown once, in the answer to the request that makes it. Afterwards its id is all that is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.serving.api.backend import Backend
from headwater.serving.api.bodies import RequestBody, parse
from headwater.serving.api.keys.auth import ADMIN, NAME, Key, Limits, check_role
from headwater.serving.api.keys.key_file import add_key, revoke_key
from headwater.serving.api.keys.usage import read_usage
from headwater.serving.api.limits import read_json_body
from headwater.serving.errors import ApiError

DAYS = 31
"""Days of usage that the console shows."""
NO_STORE = {"cache-control": "no-store"}
Most = Annotated[int, Field(ge=0, le=10**12)]
T = TypeVar("T")


class KeyRequest(RequestBody):
    """Who gets the key, what it may do besides chat, and its own limits."""

    name: str = Field(pattern=NAME.pattern)
    roles: list[Literal["rank", "admin"]] = Field(default_factory=list, max_length=2)
    requests_per_minute: Most | None = None
    tokens_per_minute: Most | None = None
    tokens_per_day: Most | None = None

    def words(self) -> list[str]:
        """As the file of keys has them."""
        limits = Limits(self.requests_per_minute, self.tokens_per_minute, self.tokens_per_day)
        return [*self.roles, *limits.words()]


async def listed(backend: Backend, request: Request) -> Response:
    """The keys, by their ids, and the usage of each by day, the latest first."""
    own, _ = _allowed(backend, request)
    days: dict[str, Any] = {}
    if backend.config.store:
        await backend.ledger.sync_now()
        days = await _tried(lambda: read_usage(Store(backend.config.store)))
    used = [
        {"day": day, "id": key, **asdict(each), "models": each.by_model()}
        for day, by_key in list(days.items())[:DAYS]
        for key, each in sorted(by_key.items())
    ]
    keys = [
        {
            "id": key.id,
            "name": key.name,
            "roles": sorted(key.roles),
            "limits": key.limits.words(),
            "yours": key == own,
        }
        for key in backend.keys
    ]
    return JSONResponse({"keys": keys, "usage": used}, headers=NO_STORE)


async def add(backend: Backend, request: Request) -> Response:
    """Make a key; the answer is the only place that has it."""
    _, file = _allowed(backend, request)
    wanted = parse(KeyRequest, await read_json_body(request, backend.config.max_body_bytes))
    secret = await _tried(lambda: add_key(file, wanted.name, wanted.words()))
    backend.key_file.look_again()
    return JSONResponse({"key": secret, "name": wanted.name}, status_code=201, headers=NO_STORE)


async def revoke(backend: Backend, request: Request) -> Response:
    """Remove a key by its id; not the one that asks."""
    own, file = _allowed(backend, request)
    which = str(request.path_params["id"])
    if which not in {key.id for key in backend.keys}:
        raise ApiError(404, "There is no such key.", code="not_found")
    if which == own.id:
        raise ApiError(400, "This is the key that you use.", code="invalid_value", param="id")
    await _tried(lambda: revoke_key(file, which))
    backend.key_file.look_again()
    return JSONResponse({"id": which, "revoked": True}, headers=NO_STORE)


def _allowed(backend: Backend, request: Request) -> tuple[Key, str]:
    """The admin's key, and the file of keys. Raises ApiError 403 without the role, 404 without a file."""
    key: Key = request.state.key
    check_role(key, ADMIN)
    if not backend.key_file.path:
        raise ApiError(404, "This server asks for no keys: set `serve.api_keys`.", code="keys_disabled")
    return key, backend.key_file.path


async def _tried(call: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(call)
    except HeadwaterError as error:
        raise ApiError(400, str(error), code="invalid_value") from error
    except OSError as error:
        raise ApiError(503, "The store cannot be read.", code="unavailable") from error
