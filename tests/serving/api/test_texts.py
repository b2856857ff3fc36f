"""`/v1/completions`, `/v1/embeddings`, `/tokenize` and `/detokenize`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from headwater.llm.inference import load_engine
from headwater.serving.retrieval.embed import WordLlamaEmbedder
from tests.serving.conftest import Endpoint

PROMPT = "The city council voted on Tuesday"


@pytest.fixture
def client(local: Endpoint) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{local.url}/v1", api_key="none", max_retries=0)


def tokens(local: Endpoint, text: str) -> list[int]:
    return list(httpx.post(f"{local.url}/tokenize", json={"prompt": text}).json()["tokens"])


def test_echo_gives_the_log_probabilities_of_the_prompt_itself(
    client: openai.OpenAI, local: Endpoint, model_folder: Path
) -> None:
    """As lm-evaluation-harness asks for a log-likelihood; compared with the engine's `score`."""
    ids = tokens(local, PROMPT)
    engine = load_engine(model_folder, threads=1)
    expected = engine.score([ids[:1]], [ids[1:]])[0]
    for bound in (0, 1):
        choice = client.completions.create(
            model="tiny", prompt=ids, max_tokens=bound, echo=True, logprobs=1, temperature=0
        ).choices[0]
        said = choice.logprobs
        assert said.token_logprobs[0] is None and said.top_logprobs[0] is None
        assert said.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=1e-4)
        assert choice.text.startswith(PROMPT) and len(said.tokens) == len(ids) + bound
        assert choice.text[said.text_offset[1] :].startswith(said.tokens[1])
        for token, logprob, top in zip(
            said.tokens[1:], said.token_logprobs[1:], said.top_logprobs[1:], strict=True
        ):
            assert top[token] == pytest.approx(logprob, abs=1e-5)
            assert max(top.values()) >= logprob - 1e-6


def test_text_and_ids_are_the_same_prompt_alone_and_in_a_list(client: openai.OpenAI, local: Endpoint) -> None:
    ids = tokens(local, PROMPT)
    settings: Any = {"model": "tiny", "max_tokens": 6, "temperature": 0}
    one = client.completions.create(prompt=PROMPT, **settings)
    assert client.completions.create(prompt=ids, **settings).choices[0].text == one.choices[0].text
    for many in ([PROMPT, "Farmers"], [ids, tokens(local, "Farmers")]):
        choices = client.completions.create(prompt=many, **settings).choices
        assert [choice.index for choice in choices] == [0, 1]
        assert choices[0].text == one.choices[0].text
    assert one.usage.prompt_tokens == len(ids) and one.object == "text_completion"


def test_choices_of_a_prompt_differ_and_repeat_with_their_seed(client: openai.OpenAI) -> None:
    settings: Any = {"model": "tiny", "max_tokens": 8, "temperature": 1.5, "n": 2}
    first, again = (
        [c.text for c in client.completions.create(prompt=[PROMPT, PROMPT], seed=4, **settings).choices]
        for _ in range(2)
    )
    assert first == again and len(set(first)) == 4


def test_a_streamed_completion_is_the_whole_one(client: openai.OpenAI) -> None:
    settings: Any = {"model": "tiny", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**settings)
    chunks = list(client.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-2].choices[0].finish_reason == "length" and chunks[-1].usage == whole.usage


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"suffix": "."}, "suffix"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": [[-1]]}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 2}, "prompt"),
        ({"prompt": "word " * 5000}, "prompt"),
        ({"logprobs": 21}, "logprobs"),
        ({"messages": []}, None),
        ({"use_beam_search": True}, "use_beam_search"),
    ],
)
def test_what_a_completion_cannot_have_is_named(
    local: Endpoint, change: dict[str, Any], param: str | None
) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 2, **change}
    response = httpx.post(f"{local.url}/v1/completions", json=body)
    if param is None:
        assert response.status_code == 200
    else:
        assert response.status_code == 400
        assert str(response.json()["error"]["param"]).startswith(param), response.text


def test_embeddings_are_the_embedders_as_numbers_and_as_bytes(client: openai.OpenAI, local: Endpoint) -> None:
    texts = ["the old stone bridge", "wheat fields"]
    expected = WordLlamaEmbedder()(texts)
    by_bytes = client.embeddings.create(model="tiny", input=texts)  # the client asks for base64
    by_number = client.embeddings.create(model="tiny", input=texts, encoding_format="float")
    for made in (by_bytes, by_number):
        assert [each.index for each in made.data] == [0, 1]
        assert np.allclose([each.embedding for each in made.data], expected, atol=1e-6)
    ids = tokens(local, texts[0])
    assert client.embeddings.create(model="tiny", input=ids).usage.prompt_tokens == len(ids)


def test_shortened_embeddings_have_unit_length(client: openai.OpenAI) -> None:
    made = client.embeddings.create(model="tiny", input="the old stone bridge", dimensions=64)
    vector = made.data[0].embedding
    assert len(vector) == 64 and math.hypot(*vector) == pytest.approx(1, abs=1e-5)
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="tiny", input="x", dimensions=257)
    assert caught.value.param == "dimensions"


@pytest.mark.parametrize("text", [PROMPT, "", "naïve — «ça» 🙂 \n<|endoftext|>"])
def test_tokens_are_the_text_again(local: Endpoint, text: str) -> None:
    told = httpx.post(f"{local.url}/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"]) and told["max_model_len"] == 512
    again = httpx.post(f"{local.url}/detokenize", json={"tokens": told["tokens"]}).json()
    assert again == {"prompt": text}


def test_a_conversation_is_tokenized_as_it_is_answered(local: Endpoint, client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": PROMPT}]
    told = httpx.post(f"{local.url}/tokenize", json={"messages": messages}).json()
    answer = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=1, extra_body={"retrieval": False}
    )
    assert told["count"] == answer.usage.prompt_tokens


def test_neither_text_nor_tokens_are_refused(local: Endpoint) -> None:
    for path, body in (
        ("tokenize", {}),
        ("tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}),
        ("tokenize", {"prompt": "a", "model": "gpt"}),
        ("detokenize", {"tokens": [10**8]}),
        ("detokenize", {"tokens": "abc"}),
    ):
        response = httpx.post(f"{local.url}/{path}", json=body)
        assert response.status_code == (404 if "model" in body else 400)
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
