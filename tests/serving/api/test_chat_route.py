"""`/v1/chat/completions` and `/v1/responses` through OpenAI's client: every parameter acts or is refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from headwater.llm.examples.conversations import question_about
from tests.serving.conftest import ARTICLES, BRIDGE, Endpoint

QUESTION: list[Any] = [{"role": "user", "content": question_about(BRIDGE)}]
ALONE: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "extra_body": {"retrieval": False}}

NO_OBJECT = {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}


@pytest.fixture
def client(local: Endpoint) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{local.url}/v1", api_key="none", max_retries=0)


def text(client: openai.OpenAI, **changes: Any) -> str:
    extra = {"retrieval": False, **changes.pop("extra_body", {})}
    return str(
        client.chat.completions.create(**ALONE | {"max_tokens": 12} | changes | {"extra_body": extra})
        .choices[0]
        .message.content
    )


def test_logprobs_have_the_bytes_of_every_token_and_its_rivals(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(
        **ALONE, max_tokens=8, logprobs=True, top_logprobs=3, temperature=0
    ).choices[0]
    tokens = choice.logprobs.content
    joined = b"".join(bytes(token.bytes) for token in tokens)
    assert joined.decode("utf-8", "replace") == choice.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token  # greedy takes the likeliest
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob, abs=1e-5)


def test_streamed_logprobs_are_those_of_the_whole_answer(client: openai.OpenAI) -> None:
    wanted = {**ALONE, "max_tokens": 8, "logprobs": True, "top_logprobs": 2, "temperature": 0}
    whole = client.chat.completions.create(**wanted).choices[0].logprobs.content
    chunks = client.chat.completions.create(**wanted, stream=True)
    told = [
        token
        for chunk in chunks
        for choice in chunk.choices
        for token in (choice.logprobs.content if choice.logprobs else [])
    ]
    assert [token.token for token in told] == [token.token for token in whole]


def test_tokens_behind_a_stop_string_have_no_logprobs(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ALONE, max_tokens=12, logprobs=True, temperature=0).choices[0]
    stop = whole.message.content[len(whole.message.content) // 2 :][:2]
    cut = client.chat.completions.create(
        **ALONE, max_tokens=12, logprobs=True, temperature=0, stop=stop
    ).choices[0]
    joined = b"".join(bytes(token.bytes) for token in cut.logprobs.content).decode("utf-8", "replace")
    assert joined.startswith(cut.message.content) and stop not in cut.message.content
    assert len(cut.logprobs.content) < len(whole.logprobs.content)


def test_history_and_system_messages_are_in_the_prompt(client: openai.OpenAI) -> None:
    longer = [{"role": "system", "content": "Be brief."}, *QUESTION]
    used = [
        client.chat.completions.create(**{**ALONE, "messages": m}, max_tokens=1).usage.prompt_tokens
        for m in (QUESTION, longer)
    ]
    assert used[1] > used[0]


def test_a_follow_up_finds_what_the_question_before_it_was_about(client: openai.OpenAI) -> None:
    """It found nothing, or something else: the query was the last message alone."""
    first = "What is the news about the old stone bridge over the Avon?"
    follow_up = [
        {"role": "user", "content": first},
        {"role": "assistant", "content": "The council voted to rebuild it."},
        {"role": "user", "content": "And who said that?"},
    ]
    answer = client.chat.completions.create(model="tiny", messages=follow_up)
    assert answer.citations and {cited["title"] for cited in answer.citations} == {BRIDGE}


def test_a_message_has_its_sources_with_spans_in_answer_and_document(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(model="tiny", messages=QUESTION).choices[0].message
    assert len(message.sources) == len(message.citations) > 0
    for source in message.sources:
        document = ARTICLES[source["title"]]
        place = source["answer"]
        assert source["quote"] == document[source["source"]["start"] : source["source"]["end"]]
        assert message.content[place["start"] : place["end"]] == source["quote"]
        wide = message.content.encode("utf-16-le")[2 * place["utf16_start"] : 2 * place["utf16_end"]]
        assert wide.decode("utf-16-le") == source["quote"]
        assert source["score"] > 0 and source["id"] and source["url"].startswith("https://")


def test_retrieval_settings_of_a_request_act(client: openai.OpenAI) -> None:
    def cited(**settings: Any) -> int:
        answer = client.chat.completions.create(
            model="tiny", messages=QUESTION, extra_body={"retrieval": settings}
        )
        return len(answer.citations)

    assert cited(passages=1) >= 1
    assert cited(min_relevance=1.0) == 0
    assert cited(enabled=False) == 0


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_k": 3}, "top_k"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"5": 3}}, "logit_bias"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ],
)
def test_what_a_quotation_cannot_follow_is_refused_with_sources_and_acts_without(
    local: Endpoint, change: dict[str, Any], param: str
) -> None:
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 8, **change}
    url = f"{local.url}/v1/chat/completions"
    refused = httpx.post(url, json=body | {"retrieval": True})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == param
    if param not in ("tools", "response_format"):
        answered = httpx.post(url, json=body, timeout=60).json()
        assert answered["choices"][0]["message"]["sources"] == []


def test_a_biased_token_is_the_answer(client: openai.OpenAI, local: Endpoint) -> None:
    (number,) = httpx.post(f"{local.url}/tokenize", json={"prompt": "7"}).json()["tokens"]
    assert text(client, logit_bias={str(number): 100}, max_tokens=4, temperature=1) == "7777"
    with pytest.raises(openai.BadRequestError) as caught:
        text(client, logit_bias={"999999": 1})
    assert caught.value.param == "logit_bias"


def test_the_fewest_tokens_need_no_bound(local: Endpoint) -> None:
    body = {"model": "tiny", "messages": QUESTION, "min_tokens": 5, "stop": "x"}
    assert httpx.post(f"{local.url}/v1/chat/completions", json=body, timeout=60).status_code == 200


def test_ignored_ends_and_least_tokens_lengthen_an_answer(client: openai.OpenAI) -> None:
    for extra in ({"ignore_eos": True}, {"min_tokens": 30}):
        answer = client.chat.completions.create(
            **{**ALONE, "extra_body": {"retrieval": False, **extra}}, max_tokens=30, temperature=1.5, seed=1
        )
        assert answer.usage.completion_tokens == 30 and answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"retrieval": {"passages": 0}}, "retrieval"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"tools": [NO_OBJECT]}, "tools.0.function.parameters"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    ],
)
def test_a_value_that_cannot_be_is_named(local: Endpoint, change: dict[str, Any], param: str) -> None:
    body = {"model": "tiny", "messages": QUESTION, **change}
    response = httpx.post(f"{local.url}/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert str(response.json()["error"]["param"]).startswith(param), response.text


def test_responses_say_what_chat_says(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(model="tiny", messages=QUESTION)
    response = client.responses.create(model="tiny", input=QUESTION[0]["content"])
    assert response.output_text == chat.choices[0].message.content
    assert (response.status, response.object) == ("completed", "response")
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    notes = response.output[0].content[0].annotations
    assert [note.url for note in notes] == [cited["url"] for cited in chat.citations]
    assert response.output[0].sources == chat.choices[0].message.sources


def test_a_streamed_response_tells_its_events_in_order(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="tiny", input=QUESTION, stream=True))
    assert [each.sequence_number for each in events] == list(range(len(events)))
    kinds = [each.type.removeprefix("response.") for each in events]
    begin = ["created", "in_progress", "output_item.added", "content_part.added"]
    end = ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert kinds[:4] == begin and kinds[-4:] == end
    assert set(kinds[4:-4]) == {"output_text.delta", "output_text.annotation.added"}
    deltas = "".join(each.delta for each in events if each.type == "response.output_text.delta")
    assert deltas == events[-1].response.output_text


def test_responses_end_at_their_bound_and_keep_nothing(client: openai.OpenAI) -> None:
    cut = client.responses.create(model="tiny", input=QUESTION, max_output_tokens=3, instructions="Be brief.")
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", input="x", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"


def test_items_of_a_conversation_are_its_messages(local: Endpoint) -> None:
    from headwater.serving.api.openai.responses_types import ResponsesRequest

    wanted = ResponsesRequest.model_validate_json(
        json.dumps(
            {
                "model": "tiny",
                "instructions": "Be brief.",
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
                    {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
                    {"type": "function_call", "call_id": "b", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "a", "output": "1"},
                ],
            }
        )
    )
    messages = [message.plain() for message in wanted.chat().messages]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool"]
    assert [call["id"] for call in messages[2]["tool_calls"]] == ["a", "b"]
    assert messages[3] == {"role": "tool", "content": "1", "tool_call_id": "a"}
