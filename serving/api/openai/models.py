"""What is served, and how it is: models, health, version, metrics."""

from __future__ import annotations

import asyncio
from typing import Literal

import ray
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from ray import serve
from typing_extensions import TypedDict

from headwater import __version__
from headwater.llm.inference.backends import Quantize, Wanted
from headwater.serving.api.backend import Backend
from headwater.serving.api.keys.auth import RANK
from headwater.serving.api.metrics import CONTENT_TYPE


class Model(TypedDict):
    """`retrieval` says whether answers can have sources, `rankings` whether this key may rank them, `backend`
    and `quantize` what computes the model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    retrieval: bool
    rankings: bool
    backend: Wanted
    quantize: Quantize


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
    config = backend.config
    entry: Model = {
        "id": config.model_name,
        "object": "model",
        "created": backend.created,
        "owned_by": "headwater",
        "retrieval": backend.retrieval is not None,
        "rankings": bool(config.store) and RANK in request.state.key.roles,
        "backend": config.backend,
        "quantize": config.quantize,
    }
    if name := request.path_params.get("name"):
        backend.check_model(name)
        return JSONResponse(entry)
    listed: Models = {"object": "list", "data": [entry]}
    return JSONResponse(listed)


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
