"""Rankings that people made in other tools: Open WebUI, Argilla, and files of preference pairs.

Open WebUI: the JSON of its export of feedbacks. A rated answer is compared with the other answers to the same
message in the kept chat; a rating without one is skipped. Argilla: records as versions 1 and 2 export them,
with a ranking question, or one whose value names the better field. Anything else is read as `own_data` reads
it: `preference`, `hh`, `oasst`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.sources.items import Unread
from headwater.llm.examples.conversations import Conversation
from headwater.llm.examples.own_data.reading import OwnFile
from headwater.llm.examples.own_data.records import records
from headwater.llm.examples.own_data.source import DataSource
from headwater.llm.examples.rankings import MAX_ANSWERS, UNKNOWN_TIME, Ranking, parse

PROMPT_FIELDS = ("prompt", "instruction", "input", "question", "chat", "text")
"""Names of the field of an Argilla record that holds the prompt."""
IMPORTED = "imported"
"""Rater of a file that names none."""
TIES = ("tie", "equal", "both", "same")


class Skip(Exception):
    """A record that ranks nothing; the reason is its message."""


def imported(path: str, rater: str = "") -> Iterator[Ranking | Unread]:
    """The rankings of a file in order, and what is wrong with the other records.

    `rater`: whose they are; default: as the file says. Raises HeadwaterError for a file that is unreadable or
    of no known format.
    """
    first = next((item.record for item in records(path) if not isinstance(item.record, Unread)), None)
    if first is None:
        raise HeadwaterError("the file holds no record", where=path, fix="replace it")
    source = f"import: {PurePosixPath(path).name}"
    if "snapshot" in first and "data" in first:
        yield from _converted(path, _open_webui, source, rater)
    elif "fields" in first and "responses" in first:
        yield from _converted(path, _argilla, source, rater)
    else:
        for _, pair in OwnFile(DataSource(files=(path,)), path).preferences():
            if isinstance(pair, Unread):
                yield pair
            else:
                answers = [pair.chosen, pair.rejected]
                reasons = ["length" if side in pair.cut else None for side in ("chosen", "rejected")]
                yield _ranking(pair.prompt, answers, [1, 2], rater, source, reasons)


def _converted(path: str, convert: Any, source: str, rater: str) -> Iterator[Ranking | Unread]:
    for _, place, record in records(path):
        if isinstance(record, Unread):
            yield record
            continue
        try:
            yield from convert(record, source, rater)
        except Skip as reason:
            yield Unread(path, place, "no_ranking", str(reason))
        except HeadwaterError as error:
            yield Unread(path, place, "bad_ranking", error.what)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            yield Unread(path, place, "unknown_shape", f"{type(error).__name__}: {error}")


def _ranking(
    prompt: Conversation,
    answers: list[str],
    ranks: list[int],
    rater: str,
    source: str,
    reasons: Iterable[str | None] = (),
    **more: Any,
) -> Ranking:
    said = [
        {"text": text, "finish_reason": reason} for text, reason in itertools.zip_longest(answers, reasons)
    ]
    fields = {"prompt": prompt, "answers": said, "ranks": ranks}
    named = {"rater": rater or IMPORTED, "source": source}
    return parse({"time": UNKNOWN_TIME} | fields | named | more)


def _open_webui(record: Mapping[str, Any], source: str, rater: str) -> Iterator[Ranking]:
    data = record["data"]
    rating = int(data.get("rating") or 0)
    if rating not in (1, -1):
        raise Skip(f"the rating is {data.get('rating')!r}, neither 1 nor -1")
    messages = record["snapshot"]["chat"]["chat"]["history"]["messages"]
    rated = messages[record["meta"]["message_id"]]
    parent = messages[rated["parentId"]]
    siblings = [messages[name] for name in parent["childrenIds"] if name != rated["id"] and name in messages]
    others = [each["content"] for each in siblings if each.get("content", "").strip()]
    if not others:
        raise Skip("the rated answer is the only one to its message")
    prompt: Conversation = []
    at = parent
    while at is not None:
        prompt.insert(0, {"role": at["role"], "content": at["content"]})
        at = messages.get(at.get("parentId"))
    own, theirs = (1, 2) if rating > 0 else (2, 1)
    answers = [rated["content"], *others][:MAX_ANSWERS]
    reason = " ".join(filter(None, (data.get("reason"), data.get("comment"))))
    moment = datetime.fromtimestamp(record.get("created_at") or record["updated_at"], UTC)
    yield _ranking(
        prompt,
        answers,
        [own, *[theirs] * (len(answers) - 1)],
        rater or str(record.get("user_id") or ""),
        source,
        time=moment.isoformat(),
        model=str(data.get("model_id") or ""),
        reason=reason[:2000],
    )


def _argilla(record: Mapping[str, Any], source: str, rater: str) -> Iterator[Ranking]:
    fields: Mapping[str, Any] = record["fields"]
    name = next((name for name in PROMPT_FIELDS if name in fields), None)
    if name is None:
        raise Skip(f"no prompt among the fields {', '.join(fields)}")
    prompt = fields[name] if isinstance(fields[name], list) else [{"role": "user", "content": fields[name]}]
    found = False
    for user, value in _values(record["responses"]):
        if (ranks := _ranks(value, fields)) is None:
            continue
        found = True
        answers = [str(fields[field]) for field in ranks]
        yield _ranking(prompt, answers, list(ranks.values()), rater or user, source)
    if not found:
        raise Skip("no response ranks the fields, or names the better one")


def _values(responses: Any) -> Iterator[tuple[str, Any]]:
    """(user, value) of every response. Argilla 2: question → responses; Argilla 1: a list with `values`."""
    if isinstance(responses, Mapping):
        for given in responses.values():
            for each in given:
                yield str(each.get("user_id") or ""), each["value"]
    else:
        for each in responses:
            if each.get("status", "submitted") == "submitted":
                for given in each["values"].values():
                    yield str(each.get("user_id") or ""), given["value"]


def _ranks(value: Any, fields: Mapping[str, Any]) -> dict[str, int] | None:
    """Field → rank, of a response that ranks or names fields; None of another."""
    names = {_plain(name): name for name in fields}
    if isinstance(value, list) and len(value) > 1:
        pairs = [
            (each["value"], int(each["rank"])) if isinstance(each, Mapping) else (each, number)
            for number, each in enumerate(value, start=1)
        ]
        ranks = {names[_plain(option)]: rank for option, rank in pairs if _plain(option) in names}
        order = sorted(set(ranks.values()))
        return {name: order.index(rank) + 1 for name, rank in ranks.items()} if len(ranks) > 1 else None
    answers = [name for name in fields if name not in PROMPT_FIELDS]
    if isinstance(value, str) and len(answers) == 2:
        if value.lower() in TIES:
            return dict.fromkeys(answers, 1)
        if names.get(_plain(value)) in answers:
            return {name: 1 if name == names[_plain(value)] else 2 for name in answers}
    return None


def _plain(name: Any) -> str:
    """`response-1` and `response_1` name the same field."""
    return str(name).lower().replace("-", "_").replace(" ", "_")
