"""Batch files for tests: lines of requests, good ones and one of every bad kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headwater.serving.batch.lines import LONGEST_LINE

TOOLS = [{"type": "function", "function": {"name": "look_up"}}]


def request(custom_id: str, question: str = "What is the news?", **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "any", "messages": messages, **body},
    }


def line(custom_id: str, question: str = "What is the news?", **body: Any) -> bytes:
    return json.dumps(request(custom_id, question, **body)).encode() + b"\n"


def bad_lines() -> list[tuple[bytes, str, str | None]]:
    """(line, code of its error, custom_id of its record); `twice` has to be the id of an earlier line."""
    good = request("x")
    return [
        (b"{broken\n", "invalid_json", None),
        (b"[1, 2]\n", "invalid_json", None),
        (b'{"custom_id": "\\ud800"}\n', "invalid_json", None),
        (b"[" * 100_000 + b"\n", "invalid_json", None),
        (b'{"custom_id": "\xff"}\n', "invalid_encoding", None),
        (json.dumps(good | {"custom_id": None}).encode() + b"\n", "invalid_custom_id", None),
        (json.dumps(good | {"custom_id": 7}).encode() + b"\n", "invalid_custom_id", None),
        (json.dumps(good | {"custom_id": ""}).encode() + b"\n", "invalid_custom_id", None),
        (line("twice"), "duplicate_custom_id", "twice"),
        (json.dumps(good | {"custom_id": "get", "method": "GET"}).encode() + b"\n", "invalid_method", "get"),
        (json.dumps(good | {"custom_id": "url", "url": "/v1/x"}).encode() + b"\n", "invalid_url", "url"),
        (json.dumps(good | {"custom_id": "body", "body": 5}).encode() + b"\n", "invalid_body", "body"),
        (line("hot", temperature=9), "invalid_value", "hot"),
        (line("tools", tools=TOOLS), "unsupported_parameter", "tools"),
        (line("stream", stream=True), "unsupported_parameter", "stream"),
        (line("sources", retrieval=True), "unsupported_parameter", "sources"),
        (line("no messages", messages=[]), "invalid_value", "no messages"),
        (line("long", "word " * 2000), "context_length_exceeded", "long"),
        (b'{"custom_id": "' + b"h" * (LONGEST_LINE + 1) + b'"}\n', "line_too_long", None),
    ]


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_bytes().splitlines()]
