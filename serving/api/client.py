"""HTTP client of the endpoint, used by `headwater ask`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from headwater.cluster.errors import HeadwaterError


@dataclass
class Answer:
    text: str
    citations: list[dict[str, Any]] = field(default_factory=list)
    """As in the response: `index`, `title`, `url`, `quote` and offsets (`answers.cite.Citation`)."""
    model: str = ""

    def sources(self) -> list[dict[str, Any]]:
        """The first citation of each source, ordered by source number."""
        first: dict[int, dict[str, Any]] = {}
        for citation in self.citations:
            first.setdefault(citation["index"], citation)
        return [first[index] for index in sorted(first)]


def ask(
    url: str,
    question: str,
    *,
    on_text: Callable[[str], None] | None = None,
    model: str | None = None,
    api_key: str = "",
    retrieval: bool = True,
    timeout: float = 300.0,
) -> Answer:
    """Ask one question. With `on_text`, the answer is streamed and each piece of text is passed to it.

    `model`: default, the server's model. `timeout`: seconds. Raises HeadwaterError if the endpoint is
    unreachable or returns an error.
    """
    import httpx

    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False) as client:
            body: dict[str, Any] = {
                "model": model or _only_model(client),
                "messages": [{"role": "user", "content": question}],
                "stream": on_text is not None,
            }
            if not retrieval:
                body["retrieval"] = False
            if on_text is None:
                response = client.post("/v1/chat/completions", json=body)
                _raise_for_error(response)
                return _whole(response.json())
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    _raise_for_error(response)
                return _streamed(response.iter_lines(), on_text)
    except httpx.HTTPError as error:
        raise HeadwaterError(
            f"the endpoint does not answer ({error})", where=url, fix="start it with `headwater serve`"
        ) from error


def _only_model(client: Any) -> str:
    response = client.get("/v1/models")
    _raise_for_error(response)
    return str(response.json()["data"][0]["id"])


def _raise_for_error(response: Any) -> None:
    if response.status_code < 400:
        return
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"HTTP status {response.status_code}"
    raise HeadwaterError(message, where=str(response.url))


def _whole(body: dict[str, Any]) -> Answer:
    return Answer(body["choices"][0]["message"]["content"], body.get("citations") or [], body["model"])


def _streamed(lines: Iterator[str], on_text: Callable[[str], None]) -> Answer:
    answer = Answer("")
    for line in lines:
        data = line.removeprefix("data: ")
        if not line.startswith("data: ") or data == "[DONE]":
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            raise HeadwaterError(chunk["error"]["message"])
        answer.model = chunk["model"]
        answer.citations += chunk.get("citations") or []
        for choice in chunk["choices"]:
            if piece := choice["delta"].get("content"):
                answer.text += piece
                on_text(piece)
    return answer
