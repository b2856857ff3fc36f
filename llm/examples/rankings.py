"""What people thought of two to four answers to one prompt: records in the store's `rankings/`.

Each ranking is one JSON file, so that any number of servers can write at the same time. The records of
version 0.1 (`chosen`, `rejected`, `source`) are read as rankings of two answers whose places are not known.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.llm.examples.chat import check_messages
from headwater.llm.examples.conversations import Conversation

log = logging.getLogger("headwater")

RANKINGS = "rankings"
MAX_ANSWERS = 4
MAX_CHARACTERS = 100_000
"""Of one answer."""
MAX_TOKENS = 100_000
MAX_REASON = 2_000
UNKNOWN_TIME = "0001-01-01T00:00:00+00:00"
"""Time of an imported ranking whose file tells none."""
LOCAL_RATER = "local"
"""Who ranks at an endpoint without keys, which only this machine reaches."""

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
"""Why an answer ended, in OpenAI's words. One that ended by `length` was cut: it has no end of its turn."""
FINISH_REASONS: tuple[str, ...] = get_args(FinishReason)

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class RankedAnswer(BaseModel):
    """One of the answers, and how it was sampled."""

    text: str = Field(min_length=1, max_length=MAX_CHARACTERS)
    token_ids: list[TokenId] = Field(default=[], max_length=MAX_TOKENS)
    """Ids as the model sampled them; empty where they are not known, or the answer is a quotation."""
    temperature: float | None = None
    seed: int | None = None
    finish_reason: FinishReason | None = Field(None, exclude_if=lambda reason: reason is None)
    """None where it is not known. It is not stored then: a repeated import has the file that it had."""
    model_key: str | None = Field(None, max_length=2000, exclude_if=lambda key: key is None)
    """Of the model that wrote it, as in `Ranking`; None, and not stored, where that is not known."""

    @property
    def cut(self) -> bool:
        return self.finish_reason == "length"


class Ranking(BaseModel):
    """One person's judgement."""

    version: int = 2
    prompt: list[dict[str, str]]
    """Messages, the last of them the user's."""
    answers: list[RankedAnswer] = Field(min_length=2, max_length=MAX_ANSWERS)
    """In the order in which they were shown."""
    ranks: list[int]
    """Of each answer: 1 is the best; equal ranks are a tie."""
    rater: str = Field(min_length=1, max_length=100)
    """Name of the key that the ranking was sent with."""
    time: str = ""
    """ISO 8601, UTC."""
    source: str = Field(min_length=1, max_length=200)
    """`console`, or the file that it was imported from."""
    model: str = ""
    """Name of the model for clients."""
    model_key: str = ""
    """`STAGE/KEY` of the model that answered; empty if several did."""
    passages: list[dict[str, Any]] = []
    """The passages that were found for the prompt."""
    reason: str = Field(default="", max_length=MAX_REASON)
    blind: bool = False
    """The answers were sampled alike and shown at random places."""

    @model_validator(mode="after")
    def _one_rank_each(self) -> Ranking:
        if len(self.ranks) != len(self.answers):
            raise ValueError(f"{len(self.ranks)} ranks for {len(self.answers)} answers")
        if not all(1 <= rank <= len(self.answers) for rank in self.ranks):
            raise ValueError(f"ranks are numbers from 1 to {len(self.answers)}")
        return self

    def pairs(self) -> Iterator[tuple[Conversation, RankedAnswer, RankedAnswer]]:
        """(prompt, better, worse) of every two answers that are not tied.

        All pairs of one ranking, as in Ouyang et al. 2022, "Training language models to follow instructions".
        """
        for a, b in itertools.combinations(range(len(self.answers)), 2):
            if self.ranks[a] != self.ranks[b]:
                better, worse = (a, b) if self.ranks[a] < self.ranks[b] else (b, a)
                yield self.prompt, self.answers[better], self.answers[worse]


@dataclass(frozen=True)
class Kept:
    """A ranking, and the name of its file in `rankings/`. Names sort by time."""

    name: str
    ranking: Ranking


def save(store: Store, ranking: Ranking) -> str:
    """Store one ranking; returns the location of its file. Raises HeadwaterError as `parse`.

    A ranking with a `time` has the same file however often it is saved, so that imports can be repeated.
    """
    time = ranking.time or datetime.now(UTC).isoformat()
    content = ranking.model_dump() | {"time": time}
    parse(content)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    folder = store.folder(RANKINGS)
    moment = datetime.fromisoformat(time).astimezone(UTC)
    name = f"{moment.year:04}{moment:%m%dT%H%M%S%f}Z-{digest}.json"
    folder.write_json(name, content)
    return folder.path(name)


def read(store: Store, bad: dict[str, str] | None = None) -> list[Kept]:
    """Every readable ranking, oldest first. Bad ones are logged and added to `bad`: file → fault."""
    folder = store.folder(RANKINGS)
    faults = {} if bad is None else bad
    found = []
    for name in folder.files(suffix=".json"):
        try:
            found.append(Kept(name, parse(json.loads(folder.read_bytes(name)))))
        except HeadwaterError as error:
            faults[folder.path(name)] = error.what
        except ValueError as error:
            faults[folder.path(name)] = f"not JSON: {error}"
    for path, fault in faults.items():
        log.warning("ranking skipped: %s: %s", path, fault)
    return found


def fingerprint(names: list[str]) -> dict[str, Any]:
    """Changes with every ranking: file names contain a hash of the content."""
    return {
        "rankings": len(names),
        "rankings_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest(),
    }


def parse(content: Any) -> Ranking:
    """A ranking from the content of its file. Raises HeadwaterError if it teaches nothing."""
    if not isinstance(content, dict):
        raise HeadwaterError("the ranking is not a JSON object")
    if "answers" not in content:
        content = _of_version_1(content)
    try:
        ranking = Ranking.model_validate(content | {"prompt": check_messages(content.get("prompt"))})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise HeadwaterError(f"`{place}`: {first['msg']}" if place else first["msg"]) from error
    if ranking.prompt[-1]["role"] == "assistant":
        raise HeadwaterError(
            "the prompt ends with an assistant's turn", fix="remove the answer from the prompt"
        )
    if any(better.text == worse.text for _, better, worse in ranking.pairs()):
        raise HeadwaterError("both answers are equal")
    return ranking


def _of_version_1(content: dict[str, Any]) -> dict[str, Any]:
    for key in ("chosen", "rejected", "source"):
        if not isinstance(content.get(key), str) or not content[key].strip():
            raise HeadwaterError(f"`{key}` is not a non-empty string")
    answers = [{"text": content["chosen"]}, {"text": content["rejected"]}]
    return {"rater": content["source"]} | content | {"version": 1, "answers": answers, "ranks": [1, 2]}
