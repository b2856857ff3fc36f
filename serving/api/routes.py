"""A route: where it is, what handles it, and what the OpenAPI document says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response

from headwater.serving.api.backend import Backend
from headwater.serving.api.bodies import RequestBody

Handler = Callable[[Backend, Request], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    handler: Handler
    name: str = ""
    """In the metrics, of a route that asks for a key. Routes without a name are open and not counted."""
    summary: str = ""
    """Empty: a file of the chat page, which the document leaves out."""
    request: type[RequestBody] | None = None
    response: Any = None
    """The type of a JSON response."""
    query: Mapping[str, Any] = field(default_factory=dict)
    """Query parameter → its JSON Schema; those with a `minLength` must be given."""
    chunk: Any = None
    """The type of an event, where the response may be a stream."""
    media: str = ""
    """Of a response that is not JSON."""
    status: int = 200
    errors: tuple[int, ...] = ()
    """Besides those that every such route may give."""
