"""`POST /v1/embeddings`: vectors of texts, by the embedder of the index."""

from __future__ import annotations

import base64
from typing import Annotated, Any, ClassVar, Literal

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from typing_extensions import TypedDict

from headwater.serving.api.backend import Backend
from headwater.serving.api.bodies import RequestBody, Text, TokenIds, parse
from headwater.serving.api.limits import read_json_body
from headwater.serving.errors import ApiError

MAX_INPUTS = 2048
"""OpenAI's."""


class EmbeddingRequest(RequestBody):
    """The body of `POST /v1/embeddings`."""

    example: ClassVar[dict[str, Any]] = {"model": "headwater", "input": "The old bridge"}

    model: str
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
        | Annotated[TokenIds, Field(min_length=1)]
        | Annotated[
            list[Annotated[TokenIds, Field(min_length=1)]], Field(min_length=1, max_length=MAX_INPUTS)
        ]
    )
    """Ids are those of `/tokenize`."""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=100_000)
    """The first so many, again of unit length."""

    def inputs(self) -> list[str | list[int]]:
        given: Any = self.input
        one = isinstance(given, str) or isinstance(given[0], int)
        return [given] if one else list(given)


class EmbeddingOut(TypedDict):
    """`embedding`: numbers, or with `base64` their little-endian float32 bytes."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(TypedDict):
    object: Literal["list"]
    model: str
    data: list[EmbeddingOut]
    usage: EmbeddingUsage


async def embeddings(backend: Backend, request: Request) -> Response:
    import numpy as np

    wanted = parse(EmbeddingRequest, await read_json_body(request, backend.config.max_body_bytes))
    model = backend.model(wanted.model)
    backend.quotas.check_tokens(request.state.key)
    vectors, tokens = await backend.call("embed", model, wanted.inputs())
    backend.quotas.spent(request.state.key, model.name, prompt=tokens)
    if wanted.dimensions is not None:
        if wanted.dimensions > vectors.shape[1]:
            message = f"The embedding has {vectors.shape[1]} dimensions."
            raise ApiError(400, message, code="invalid_value", param="dimensions")
        vectors = vectors[:, : wanted.dimensions]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    body: EmbeddingResponse = {
        "object": "list",
        "model": wanted.model,
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode()
                if wanted.encoding_format == "base64"
                else row.tolist(),
            }
            for index, row in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return JSONResponse(body)
