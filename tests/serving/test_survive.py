"""Streams through Serve while its processes are killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from aiohttp import web

from tests.data_pipeline.crawl.web import response, serving
from tests.serving.conftest import Endpoint
from tests.serving.web.conftest import HARBOUR, QUESTION

WAIT = 300.0
"""Seconds for Serve to start a replica on a busy machine."""


@pytest.mark.soak
def test_streams_go_on_while_engines_are_killed_and_a_killed_ingress_can_be_asked_again() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.serving.survive",
            "--kills",
            "4",
            "--seconds",
            "60",
            "--clients",
            "3",
        ],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found = re.search(r"(\d+) kills, (\d+) streams: (\d+) differ, (\d+) failed", done.stdout)
    assert found, done.stdout + done.stderr
    kills, streams, differing, failed = map(int, found.groups())
    assert kills and streams >= 3 and not differing and not failed, done.stdout
    assert "asked for again, is the same" in done.stdout


def alive(part: str) -> list[int]:
    """Processes of the replicas of a deployment in this test's cluster."""
    from ray.util.state import list_actors

    here = ray.get_runtime_context().gcs_address  # other tests' clusters may run beside it
    wanted = [("class_name", "=", f"ServeReplica:headwater:{part}"), ("state", "=", "ALIVE")]
    return [actor.pid for actor in list_actors(here, filters=wanted, raise_on_missing_output=False)]


def kill(part: str) -> list[int]:
    pids = alive(part)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return pids


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def said(answer: httpx.Response) -> Any:
    """Its body without the ids and times of the response itself."""
    assert answer.status_code == 200, answer.text
    return {name: value for name, value in answer.json().items() if name not in ("id", "created")}


@pytest.mark.soak
@pytest.mark.parametrize(
    ("part", "path", "body"),
    [
        ("Retrieval", "/v1/search", {"query": "old stone bridge"}),
        ("Engine", "/v1/embeddings", {"model": "tiny", "input": ["A bridge of stone", "A bakery"]}),
        ("Engine", "/tokenize", {"model": "tiny", "prompt": "A bridge of stone"}),
    ],
)
def test_no_call_fails_while_the_only_replica_is_killed_and_started_again(
    endpoint: Endpoint, part: str, path: str, body: dict[str, Any]
) -> None:
    def ask() -> Any:
        return said(httpx.post(f"{endpoint.url}{path}", json=body, timeout=WAIT))

    wanted, found, ended = ask(), list[Any](), threading.Event()

    def ask_on() -> None:
        while not ended.is_set():
            found.append(ask())

    asking = [threading.Thread(target=ask_on) for _ in range(2)]
    for each in asking:
        each.start()
    until(lambda: len(found) > 4)
    killed = kill(part)
    until(lambda: set(alive(part)) - set(killed))
    before = len(found)
    until(lambda: len(found) > before + 4)
    ended.set()
    for each in asking:
        each.join(WAIT)
    assert len(killed) == 1 and all(each == wanted for each in found)


@pytest.mark.soak
def test_a_page_that_the_killed_replica_was_reading_is_read_by_the_next_one(endpoint: Endpoint) -> None:
    first = asyncio.Event()

    async def silent_at_first(request: web.Request) -> web.StreamResponse:
        if not first.is_set():
            first.set()
            await asyncio.sleep(WAIT)
        return response(f"<html><body><p>{HARBOUR}</p></body></html>")

    with serving() as pages:
        pages.site("ferry.example", **{"/": silent_at_first})
        messages = [{"role": "user", "content": QUESTION}]
        body = {"model": "tiny", "messages": messages, "retrieval": {"urls": [pages.url("ferry.example")]}}
        answers: list[Any] = []

        def ask() -> None:
            answers.append(httpx.post(f"{endpoint.url}/v1/chat/completions", json=body, timeout=WAIT))

        asking = threading.Thread(target=ask)
        asking.start()
        until(first.is_set)
        assert len(kill("Web")) == 1
        asking.join(WAIT)
        sources = said(answers[0])["choices"][0]["message"]["sources"]
        assert pages.url("ferry.example") in [source["url"] for source in sources]
        assert pages.paths("ferry.example").count("/") == 2
