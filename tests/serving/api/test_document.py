"""`/openapi.json`: it names every route, and real responses are what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from headwater.llm.examples.conversations import question_about
from headwater.serving.api.ingress import ROUTES
from tests.serving.conftest import BRIDGE, Endpoint

ASK = [{"role": "user", "content": question_about(BRIDGE)}]
TOOL = {"type": "function", "function": {"name": "f"}}
CHAT: dict[str, Any] = {"model": "tiny", "messages": ASK, "max_tokens": 60}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 2, "n": 2, "return_token_ids": True}),
    ("/v1/chat/completions", CHAT | {"tools": [TOOL], "tool_choice": "required"}),
    ("/v1/completions", {"model": "tiny", "prompt": ["a", "b"], "echo": True, "logprobs": 2}),
    ("/v1/responses", {"model": "tiny", "input": ASK}),
    ("/v1/responses", {"model": "tiny", "input": ASK, "tools": [{"type": "function", "name": "f"}]}),
    ("/v1/embeddings", {"model": "tiny", "input": ["a", "b"]}),
    ("/tokenize", {"prompt": "a b", "return_token_strs": True}),
    ("/detokenize", {"tokens": [1, 2]}),
]
WRONG = [("/v1/chat/completions", {}), ("/v1/completions", {"model": "no", "prompt": "a"}), ("/tokenize", {})]
OPENAI = {
    "/v1/chat/completions": "CreateChatCompletionResponse",
    "/v1/completions": "CreateCompletionResponse",
    "/v1/responses": "Response",
    "/v1/embeddings": "CreateEmbeddingResponse",
}


@pytest.fixture(scope="module")
def document(local: Endpoint) -> dict[str, Any]:
    return dict(httpx.get(f"{local.url}/openapi.json").json())


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def test_every_route_is_described_and_every_reference_is_there(document: dict[str, Any]) -> None:
    described = {(m.upper(), p) for p, methods in document["paths"].items() for m in methods}
    shown = {(r.method, r.path.replace(":path", "")) for r in ROUTES}
    assert {path for _, path in shown - described if not path.startswith("/console/")} == {"/"}
    for name in re.findall(r"#/components/schemas/(\w+)", json.dumps(document)):
        assert name in document["components"]["schemas"]
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(("path", "body"), REQUESTS + WRONG)
def test_responses_are_what_the_document_says(
    local: Endpoint, document: dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    response = httpx.post(f"{local.url}{path}", json=body, timeout=60)
    operation = document["paths"][path]["post"]
    told = operation["responses"][str(response.status_code)]["content"]["application/json"]["schema"]
    check(document, told, response.json())
    assert (response.status_code == 200) == ((path, body) not in WRONG), response.text
    if response.status_code == 200:
        check(document, operation["requestBody"]["content"]["application/json"]["schema"], body)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_events_of_streams_are_what_the_document_says(
    local: Endpoint, document: dict[str, Any], path: str
) -> None:
    body = dict(next(body for each, body in REQUESTS if each == path), stream=True)
    lines = httpx.post(f"{local.url}{path}", json=body, timeout=60).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    told = document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]["x-event"]
    assert events
    for event in events:
        check(document, told, event)


@pytest.mark.parametrize("path", sorted(OPENAI))
def test_responses_are_what_openai_describes(local: Endpoint, shared_data: Path, path: str) -> None:
    file = shared_data / "api" / "openai-openapi.yaml"
    if not file.is_file():
        pytest.skip("OpenAI's description is not beside this checkout")
    described = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    schema = {"$ref": f"#/components/schemas/{OPENAI[path]}", "components": _without_formats(described)}
    for body in (dict(body) for each, body in REQUESTS if each == path):
        body.pop("echo", None)  # its first token has no log-probability, which OpenAI leaves undescribed
        response = httpx.post(f"{local.url}{path}", json=body, timeout=60)
        faults = list(jsonschema.Draft202012Validator(schema).iter_errors(response.json()))
        assert not faults, [(fault.json_path, fault.message[:200]) for fault in faults]


def _without_formats(described: dict[str, Any]) -> Any:
    """Its components, with OpenAPI 3.0's `nullable` as JSON Schema has it."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(each) for each in value]
        if not isinstance(value, dict):
            return value
        made = {key: plain(each) for key, each in value.items()}
        nullable = made.pop("nullable", False)
        return {"anyOf": [made, {"type": "null"}]} if nullable is True else made

    return plain(described["components"])
