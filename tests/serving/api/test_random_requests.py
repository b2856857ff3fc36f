"""Random requests: good ones with parts replaced, dropped and added. None fails, hangs or gets another answer
than the OpenAPI document says.

    HEADWATER_CASES=10000 python -m pytest tests/serving/api/test_random_requests.py
"""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from headwater.serving.config import AppConfig
from tests.serving.api.test_document import REQUESTS
from tests.serving.in_process import ingress_of, served

CASES = int(os.environ.get("HEADWATER_CASES", "150"))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-2, 10)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["user", "assistant", "tool", "system", "text", "json_object", "required", "f", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """(holder, key) of every part of a body."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        found.append((value, key))
        _places(inner, found)
    return found


def _names(document: dict[str, Any], path: str) -> list[str]:
    body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    kind = body["$ref"].rsplit("/", 1)[1]
    return sorted(document["components"]["schemas"][kind]["properties"])


@pytest.fixture(scope="module")
def small(news_config: AppConfig) -> Iterator[str]:
    """An endpoint with short answers."""
    more = {"max_tokens": 4, "parallel_requests": 4, "max_queue": 8, "store": "", "max_body_bytes": 4096}
    with served(ingress_of(news_config.model_copy(update=more))) as url:
        yield url


@pytest.mark.soak
def test_no_request_fails_hangs_or_gets_an_undescribed_answer(small: str) -> None:
    client = httpx.Client(base_url=small, timeout=60)
    document = client.get("/openapi.json").json()
    seen: Counter[int] = Counter()

    @settings(max_examples=CASES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def send(data: st.DataObject) -> None:
        path, good = data.draw(st.sampled_from(REQUESTS))
        body = copy.deepcopy(good) | ({"max_tokens": 4} if "max_tokens" in good else {})
        for _ in range(data.draw(st.integers(0, 3))):
            change = data.draw(st.sampled_from(["replace", "drop", "add"]))
            if change == "add":
                body[data.draw(st.sampled_from(_names(document, path)))] = data.draw(VALUES)
                continue
            holder, key = data.draw(st.sampled_from(_places(body, []) or [(body, "x")]))
            if change == "replace":
                holder[key] = data.draw(VALUES)
            elif isinstance(holder, list):
                del holder[key]
            else:
                holder.pop(key, None)
        response = client.post(path, json=body)
        seen[response.status_code] += 1
        told = document["paths"][path]["post"]["responses"].get(str(response.status_code))
        assert told and response.status_code < 500, (path, body, response.text)
        kind = response.headers["content-type"].split(";")[0]
        if kind == "text/event-stream":
            schema, lines = told["content"][kind]["x-event"], response.text.splitlines()
            values = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
            values = [value for value in values if "error" not in value or value.get("object")]
        else:
            schema, values = told["content"][kind]["schema"], [response.json()]
        checker = Draft202012Validator({**schema, "components": document["components"]})
        for value in values:
            checker.validate(value)

    send()
    print(dict(seen))
    assert seen[200] > CASES / 20 and seen[400] > CASES / 20
