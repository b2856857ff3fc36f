"""`POST /v1/rankings`: keeps how a person ranks two to four answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, ValidationError, model_validator
from typing_extensions import TypedDict

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.llm.examples.rankings import (
    MAX_ANSWERS,
    MAX_CHARACTERS,
    MAX_REASON,
    MAX_TOKENS,
    FinishReason,
    RankedAnswer,
    Ranking,
    TokenId,
    save,
)
from headwater.llm.grounding.cite import without_markers
from headwater.serving.api.backend import Backend, parts_explained
from headwater.serving.api.bodies import Body, RequestBody, parse
from headwater.serving.api.chat_types import Message, RetrievalOptions
from headwater.serving.api.keys.auth import NAME, RANK, Key, check_role
from headwater.serving.api.limits import read_json_body
from headwater.serving.api.retrieve import retrieve
from headwater.serving.errors import ApiError


class AnswerShown(Body):
    """One answer of a ranking."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
    token_ids: list[TokenId] = Field([], max_length=MAX_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    finish_reason: FinishReason | None = None
    """As in the response: the end of its turn is not learnt of an answer with `length`."""
    system_fingerprint: str | None = Field(None, max_length=200)
    """As in the response: which model wrote it, if another one has taken its name since."""


class RankingRequest(RequestBody):
    """The body of `POST /v1/rankings`: two to four answers to a prompt, in the order shown, and their ranks.

    `chosen` and `rejected` instead of `answers` and `ranks` are two answers whose order is not known.
    """

    messages: list[Message] = Field(min_length=1, max_length=1000)
    answers: list[AnswerShown] = Field(min_length=2, max_length=MAX_ANSWERS)
    ranks: list[Annotated[int, Field(ge=1, le=MAX_ANSWERS)]] = Field(min_length=2, max_length=MAX_ANSWERS)
    """1 is the best; equal ranks are a tie."""
    reason: str = Field("", max_length=MAX_REASON)
    retrieval: bool | RetrievalOptions | None = None
    """As in the request for the answers: false if they were made without sources."""
    blind: bool = False
    """The answers were sampled alike and shown at random places."""
    model: str | None = None
    """What made the answers; default: the server's first model."""
    rater: str | None = Field(None, pattern=NAME.pattern)
    """Who ranks, where the server has no keys: a key has a name of its own."""

    @model_validator(mode="before")
    @classmethod
    def _pair(cls, body: Any) -> Any:
        if not isinstance(body, dict) or "answers" in body or not {"chosen", "rejected"} & body.keys():
            return body
        rest = {name: value for name, value in body.items() if name not in ("chosen", "rejected")}
        answers = [{"text": body.get(name)} for name in ("chosen", "rejected")]
        return rest | {"answers": answers, "ranks": [1, 2], "blind": False}


class Saved(TypedDict):
    object: Literal["ranking"]
    saved: bool


async def rank(backend: Backend, request: Request) -> Response:
    key: Key = request.state.key
    check_role(key, RANK)
    body = await read_json_body(request, backend.config.max_body_bytes)
    wanted = parse(RankingRequest, body)
    if wanted.rater and backend.keys:
        raise ApiError(400, "The API key names the rater.", code="invalid_value", param="rater")
    if not backend.config.store:
        raise ApiError(404, "This server does not store rankings.", code="rankings_disabled")
    model = backend.model(wanted.model)
    backend.rankings.check(key.name, time.monotonic())
    prompt = [message.plain() for message in wanted.messages]
    with parts_explained():  # the same search as for the answers
        passages = (await retrieve(backend, wanted.messages, wanted.retrieval)).passages
    try:
        keys = await asyncio.to_thread(_keys, backend, wanted.answers)
        answers = [  # [1] is added by the server, not written by the model
            RankedAnswer(**each.model_dump() | {"text": without_markers(each.text), "model_key": key})
            for each, key in zip(wanted.answers, keys, strict=True)
        ]
        writers = {key or backend.config.key_of(model.folder) for key in keys}
        ranking = Ranking(
            prompt=prompt,
            answers=answers,
            ranks=wanted.ranks,
            rater=wanted.rater or key.name,
            source="console",
            model=model.name,
            model_key=writers.pop() if len(writers) == 1 else "",
            passages=[asdict(passage) for passage in passages or []],
            reason=wanted.reason,
            blind=wanted.blind,
        )
        await asyncio.to_thread(save, Store(backend.config.store), ranking)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise ApiError(400, message, code="invalid_value") from error
    except HeadwaterError as error:
        raise ApiError(400, str(error), code="invalid_value") from error
    return JSONResponse({"object": "ranking", "saved": True}, status_code=201)


def _keys(backend: Backend, answers: Sequence[AnswerShown]) -> list[str | None]:
    """Of the models that wrote the answers, where they say so. Raises ApiError 400 for a model that is not
    known here."""
    found: list[str | None] = []
    for number, each in enumerate(answers):
        told = each.system_fingerprint
        try:
            found.append(None if told is None else backend.models.key_of(told))
        except HeadwaterError as error:
            place = f"answers.{number}.system_fingerprint"
            raise ApiError(400, str(error), code="invalid_value", param=place) from error
    return found
