"""Parsing of batch lines: bad lines are reported with their number, answers are deterministic."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headwater.llm.inference import Engine
from headwater.serving.answers.answer import answer
from headwater.serving.answers.events import AnswerJob, Delta
from headwater.serving.batch import lines
from headwater.serving.batch.lines import plan
from headwater.serving.batch.requests import Refusal, Request, error_record, line_id, read_request
from headwater.serving.batch.worker import complete
from tests.llm.models import small_engine
from tests.serving.batch.batch_files import bad_lines, line, request


@pytest.fixture(scope="module")
def engine() -> Engine:
    return small_engine()


def wanted(custom_id: str, question: str = "What is the news?", **body: Any) -> Request:
    read = read_request(line(custom_id, question, **body), 1)
    assert isinstance(read, Request)
    return read


def spoken(result: dict[str, Any] | Refusal) -> tuple[list[str], dict[str, int]]:
    assert isinstance(result, dict)
    body = result["response"]["body"]
    return [choice["message"]["content"] for choice in body["choices"]], body["usage"]


def test_a_body_need_not_name_the_model_that_the_command_names() -> None:
    content = json.dumps(
        request("a", "Hello") | {"body": {"messages": [{"role": "user", "content": "Hello"}]}}
    )
    read = read_request(content.encode(), 1)
    assert isinstance(read, Request)
    assert read.body.model == "headwater"


# -- lines -------------------------------------------------------------------------------------
@given(
    st.lists(
        st.sampled_from([line("a"), line("b"), line("c"), b"\n", b"{\n", b"y" * 900 + b"\n"]), max_size=30
    ),
    st.integers(1, 7),
    st.booleans(),
)
@example([b"\n", b"\n"], 1, False)
@example([line("a"), b"\n", b"\n", line("b")], 2, False)
def test_units_cover_every_line_once_and_know_its_number(
    content: list[bytes], per_unit: int, last_is_open: bool
) -> None:
    data = b"".join(content).removesuffix(b"\n") if last_is_open else b"".join(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "LONGEST_LINE", 800)
        made = plan(io.BytesIO(data), len(data), per_unit, line_id)
    assert b"".join(data[unit["start"] : unit["end"]] for unit in made.units) == data
    original = data.split(b"\n")
    repeated, seen = [], set[str]()
    for number, text in enumerate(original, start=1):
        identifier = line_id(text)
        if identifier in seen:
            repeated.append(number)
        seen |= {identifier} if identifier else set()
    assert [number for unit in made.units for number in unit["duplicates"]] == repeated
    assert made.requests == sum(bool(text.strip()) for text in original)
    for unit in made.units:
        texts = data[unit["start"] : unit["end"]].removesuffix(b"\n").split(b"\n")
        assert texts == original[unit["line"] - 1 :][: len(texts)]
        assert unit["too_long"] == (len(texts[0]) >= 800)
        before_empty_lines = data[unit["start"] : unit["end"]].rstrip(b"\n").split(b"\n")
        assert len(before_empty_lines) <= per_unit


def test_a_large_file_has_a_bounded_number_of_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_UNITS", 10)
    data = line("a") * 1000
    assert 10 <= len(plan(io.BytesIO(data), len(data), 2, line_id).units) <= 11


# -- requests ----------------------------------------------------------------------------------
def test_every_kind_of_bad_line_is_refused_with_its_code_and_line() -> None:
    for number, (content, code, custom_id) in enumerate(bad_lines(), start=1):
        if code in ("line_too_long", "context_length_exceeded"):
            continue  # seen by the scanner and by the engine
        read = read_request(content, number, repeated=code == "duplicate_custom_id")
        assert isinstance(read, Refusal), content[:80]
        record = error_record(read)
        assert (record["error"]["code"], record["error"]["line"]) == (code, number)
        assert record["custom_id"] == custom_id
        json.dumps(record, ensure_ascii=False).encode()


def test_a_body_that_the_endpoint_would_refuse_carries_the_endpoints_answer() -> None:
    read = read_request(line("hot", temperature=9), 3)
    assert isinstance(read, Refusal)
    response = error_record(read)["response"]
    assert response["status_code"] == 400
    assert response["body"]["error"]["param"] == "temperature"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["custom_id", "method", "url", "body", "messages", "seed", "stop", "n"]),
)
def test_any_invalid_value_in_a_line_is_refused_without_crashing(value: Any, place: str) -> None:
    made = request("id")
    (made if place in made else made["body"])[place] = value
    content = json.dumps(made).encode()
    assert isinstance(read_request(content, 1), Request | Refusal)
    line_id(content)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_without_crashing(content: bytes) -> None:
    assert isinstance(read_request(content, 1), Refusal)


def test_a_byte_order_mark_and_carriage_returns_do_no_harm() -> None:
    content = b"\xef\xbb\xbf" + line("first").replace(b"\n", b"\r\n")
    assert isinstance(read_request(content, 1), Request)


# -- answers -----------------------------------------------------------------------------------
def test_an_answer_depends_on_neither_neighbours_nor_batch_size(engine: Engine) -> None:
    requests = [
        wanted(f"{n}", "news " * (n % 4 + 1), temperature=float(n % 2), max_tokens=5 + n % 3)
        for n in range(12)
    ]
    together = list(complete(engine, requests, 8, 5))
    alone = [next(iter(complete(engine, [one], 8, 1))) for one in reversed(requests)][::-1]
    assert list(map(spoken, together)) == list(map(spoken, alone))
    assert [result["custom_id"] for result in together if isinstance(result, dict)] == [
        one.custom_id for one in requests
    ]
    texts = [spoken(result)[0][0] for result in together[1::4]]
    assert len(set(texts)) == len(texts), "requests without a seed draw apart"


@pytest.mark.parametrize(
    "body",
    [{}, {"temperature": 1.0, "seed": -4, "n": 3}, {"temperature": 0.8, "seed": 1, "stop": ["e", "t"]}],
)
def test_a_batch_gives_the_same_answer_as_the_endpoint(engine: Engine, body: dict[str, Any]) -> None:
    one = wanted("same", **body)
    job = AnswerJob(
        messages=[message.plain() for message in one.body.messages],
        passages=None,
        mode="write",
        sampling=one.body.chat_sampling(20, 0.0),
        stops=one.body.stops(),
        choices=body.get("n", 1),
    )
    texts = [""] * job.choices
    for event in answer(engine, job):
        if isinstance(event, Delta):
            texts[event.choice] += event.text
    _, result = complete(engine, [wanted("other", **body), one], 20, 4)
    assert spoken(result)[0] == texts


def test_a_prompt_longer_than_the_context_is_refused_and_its_neighbours_are_answered(engine: Engine) -> None:
    first, long, last = complete(engine, [wanted("a"), wanted("b", "word " * 999), wanted("c")], 4, 8)
    assert isinstance(first, dict) and isinstance(last, dict)
    assert isinstance(long, Refusal)
    assert (long.error.code, long.custom_id) == ("context_length_exceeded", "b")


def test_a_prompt_that_nearly_fills_the_context_gets_what_room_is_left(engine: Engine) -> None:
    length = spoken(next(iter(complete(engine, [wanted("a", "x" * 200)], 1, 1))))[1]["prompt_tokens"]
    filling = wanted("b", "x" * (200 + engine.context - length - 2))
    (result,) = complete(engine, [filling], 50, 1)
    used = spoken(result)[1]
    assert used["total_tokens"] <= engine.context
    assert 0 < used["completion_tokens"] <= 2
