"""`/openapi.json`: an OpenAPI 3.1 document of the list of routes and the types of their bodies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from headwater import __version__
from headwater.serving.api.bodies import ErrorResponse
from headwater.serving.api.routes import Route

_REF = "#/components/schemas/{model}"
_MEANINGS = {
    400: "The request is wrong; `param` names where.",
    401: "No API key, or a wrong one.",
    403: "The API key has not the role.",
    404: "There is no such model or path.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The Content-Type is not application/json.",
    421: "Without API keys only names of the server's own machine are answered.",
    429: "The queue is full, or a limit is reached; Retry-After says when to come back.",
    500: "An unexpected error.",
    503: "A part of the server is not available.",
}
_ALWAYS = (401, 421, 429, 500, 503)
_OF_BODIES = (400, 403, 404, 408, 413, 415)


def document(routes: Iterable[Route], *, keys: bool) -> dict[str, Any]:
    """The document. `keys`: whether this server asks for an API key."""
    routes = [route for route in routes if route.summary]
    kinds: list[tuple[Any, JsonSchemaMode]] = [(ErrorResponse, "serialization")]
    for route in routes:
        kinds += [(route.request, "validation")] if route.request else []
        kinds += [(kind, "serialization") for kind in (route.response, route.chunk) if kind]
    named = {(kind, mode): TypeAdapter(kind) for kind, mode in dict.fromkeys(kinds)}
    schemas, definitions = TypeAdapter.json_schemas(
        [(key, key[1], adapter) for key, adapter in named.items()], ref_template=_REF
    )
    refs = {key: schemas[key, key[1]] for key in named}
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Headwater",
            "version": __version__,
            "description": "OpenAI's API with answers from sources.",
        },
        "paths": {},
        "components": {"schemas": definitions.get("$defs", {})},
    }
    for route in routes:
        path = re.sub(r"\{(\w+):path\}", r"{\1}", route.path)
        made["paths"].setdefault(path, {})[route.method.lower()] = _operation(route, refs, path)
    if keys:
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"key": []}]
    return made


def _operation(route: Route, refs: Mapping[Any, Any], path: str) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.response is not None:
        content["application/json"] = {"schema": refs[route.response, "serialization"]}
    if route.chunk is not None:
        # without a `schema`: OpenAPI 3.1 has none for an event, and tools hold each event to the body's
        content["text/event-stream"] = {"x-event": refs[route.chunk, "serialization"]}
    if route.media:
        content[route.media] = {"schema": {"type": "string"}}
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{path}").strip("_"),
        "summary": route.summary,
        "responses": {str(route.status): {"description": "As asked for.", "content": content}},
    }
    wrong = {"application/json": {"schema": refs[ErrorResponse, "serialization"]}}
    codes = [*_ALWAYS, *(_OF_BODIES if route.request or route.query or "{" in path else ())]
    for code in sorted({*codes, *route.errors}):
        operation["responses"][str(code)] = {"description": _MEANINGS[code], "content": wrong}
    if not route.name:
        operation["security"] = []
    if route.request is not None:
        body: dict[str, Any] = {"schema": refs[route.request, "validation"]}
        if route.request.example:
            body["example"] = route.request.example
        operation["requestBody"] = {"required": True, "content": {"application/json": body}}
    operation["parameters"] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ] + [
        {"name": name, "in": "query", "required": bool(schema.get("minLength")), "schema": schema}
        for name, schema in route.query.items()
    ]
    return operation
