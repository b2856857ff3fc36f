"""What is served, and how it is: models, health, version, metrics."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeVar

import ray
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from ray import serve
from typing_extensions import TypedDict

from headwater import __version__
from headwater.cluster.errors import HeadwaterError
from headwater.llm.inference.backends import Quantize, Wanted
from headwater.serving.api.backend import Backend
from headwater.serving.api.bodies import RequestBody, parse
from headwater.serving.api.keys.auth import ADMIN, RANK, check_role
from headwater.serving.api.limits import read_json_body
from headwater.serving.api.metrics import CONTENT_TYPE
from headwater.serving.config import NAME, ServedModel
from headwater.serving.errors import ApiError
from headwater.serving.models import Served
from headwater.serving.room import check_memory

T = TypeVar("T")


class Model(TypedDict):
    """`parent` is the base of an adapter; `retrieval` says whether answers can have sources, `rankings`
    whether this key may rank them, `backend` and `quantize` what computes the model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None
    retrieval: bool
    rankings: bool
    backend: Wanted
    quantize: Quantize


class ModelRequest(RequestBody):
    """The body of `POST /v1/models`: adds a model, or puts another one under a name that there is."""

    example: ClassVar[dict[str, Any]] = {"id": "mine", "path": "sft/3f2a/adapter"}

    id: str = Field(pattern=NAME.pattern)
    path: str = Field(min_length=1, max_length=2000, pattern=r"^[^\x00-\x1f]+$")
    """As `serve.models.NAME.path`."""
    base: str = Field("", max_length=100)
    """As `serve.models.NAME.base`."""


class Removed(TypedDict):
    id: str
    object: Literal["model"]
    deleted: bool


class Models(TypedDict):
    object: Literal["list"]
    data: list[Model]


class Health(TypedDict):
    """`parts`: the state of each deployment."""

    status: Literal["ok", "unhealthy"]
    model: str
    parts: dict[str, str]


class Version(TypedDict):
    version: str


async def models(backend: Backend, request: Request) -> Response:
    if name := request.path_params.get("name"):
        return JSONResponse(_entry(backend, request, backend.model(name)))
    data = [_entry(backend, request, each) for each in backend.models.now.values()]
    listed: Models = {"object": "list", "data": data}
    return JSONResponse(listed)


def _entry(backend: Backend, request: Request, model: Served) -> Model:
    return {
        "id": model.name,
        "object": "model",
        "created": backend.created,
        "owned_by": "headwater",
        "parent": model.base.name if model.base else None,
        "retrieval": backend.retrieval is not None,
        "rankings": bool(backend.config.store) and RANK in request.state.key.roles,
        "backend": backend.config.backend,
        "quantize": backend.config.quantize,
    }


async def add(backend: Backend, request: Request) -> Response:
    """Check a model and have a replica load it, then list it. Requests that run with one of its name go on
    with that."""
    check_role(request.state.key, ADMIN)
    wanted = parse(ModelRequest, await read_json_body(request, backend.config.max_body_bytes))
    _check_changeable(backend, wanted.id)
    given = ServedModel(path=wanted.path, base=wanted.base)

    def checked() -> Served:
        model, listed = backend.models.would_be(wanted.id, given)
        check_memory(backend.config, {*listed.values(), *backend.models.now.values()})
        return model

    model = await _refused(checked)
    await backend.call("load", model)
    await _refused(lambda: backend.models.put(wanted.id, given, model))
    return JSONResponse(_entry(backend, request, model), status_code=201)


async def remove(backend: Backend, request: Request) -> Response:
    """Take a model from the list. Requests that run with it go on."""
    check_role(request.state.key, ADMIN)
    name = str(request.path_params["name"])
    backend.model(name)
    _check_changeable(backend, name)
    if name == backend.models.first.name:
        message = f"`{name}` is this server's first model: put another one in its place (POST /v1/models)."
        raise ApiError(400, message, code="invalid_value", param="id")
    await _refused(lambda: backend.models.remove(name))
    body: Removed = {"id": name, "object": "model", "deleted": True}
    return JSONResponse(body)


def _check_changeable(backend: Backend, name: str) -> None:
    if not backend.config.store:
        raise ApiError(404, "This server has no store, which keeps the list.", code="store_disabled")
    if backend.config.backend == "openvino" and name != backend.models.first.name:
        message = "The backend openvino serves one model; set `serve.backend: torch` for several."
        raise ApiError(400, message, code="invalid_value", param="id")


async def _refused(call: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(call)
    except HeadwaterError as error:
        raise ApiError(400, str(error), code="invalid_value", param="path") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            told = "The path has a name that is too long."
            raise ApiError(400, told, code="invalid_value", param="path") from error
        raise ApiError(503, "The store cannot be read.", code="unavailable") from error


async def health(backend: Backend, request: Request) -> Response:
    """200 if every deployment is healthy, 503 otherwise."""
    parts = await asyncio.to_thread(_parts)
    well = all(state in ("HEALTHY", "UPSCALING", "DOWNSCALING") for state in parts.values())
    body: Health = {
        "status": "ok" if well else "unhealthy",
        "model": backend.config.model_name,
        "parts": parts,
    }
    return JSONResponse(body, status_code=200 if well else 503)


def _parts() -> dict[str, str]:
    """The state of each deployment. Without Ray there are none: `serve.status` would start one."""
    if not ray.is_initialized():
        return {}
    return {
        name: deployment.status.value
        for application in serve.status().applications.values()
        for name, deployment in application.deployments.items()
    }


async def version(backend: Backend, request: Request) -> Response:
    body: Version = {"version": __version__}
    return JSONResponse(body)


async def metrics(backend: Backend, request: Request) -> Response:
    return Response(backend.metrics.render(), media_type=CONTENT_TYPE)
