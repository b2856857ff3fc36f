"""The console's server, in this process, with a store to look at; and a real Chromium."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.store import Store
from headwater.serving.answers.events import Delta
from headwater.serving.api.ingress import Ingress
from headwater.serving.config import AppConfig
from headwater.serving.replicas import EngineReplica, RetrievalReplica, WebReplica
from headwater.serving.retrieval.index import Index, IndexConfig
from tests.serving.conftest import Endpoint
from tests.serving.console import console_store
from tests.serving.in_process import Handle, served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = {"width": 1200, "height": 860}, {"width": 390, "height": 760}


class PacedEngine(EngineReplica):
    """The real engine; what it says can be slowed down, so that a test can act in the middle of an answer, or
    kept back, as if the model had ended at once."""

    pause = 0.0
    silent = 0
    """Answers from now on that say nothing."""

    async def answer(self, job: Any, past: Any) -> AsyncIterator[Any]:
        kind = type(self)
        silent, kind.silent = kind.silent > 0, max(0, kind.silent - 1)
        async for events in super().answer(job, past):
            yield [event for event in events if not (silent and isinstance(event, Delta))]
            await asyncio.sleep(kind.pause)


@pytest.fixture(scope="module")
def console(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A server without keys; its model is the store's `rl` artifact."""
    store = Store(str(tmp_path_factory.mktemp("console-store")))
    console_store.fill(store)
    model = Path(store.artifact("rl", console_store.RL).path("model"))
    shutil.copytree(model_folder, model)
    clean = store.artifact("clean", console_store.CLEAN)
    index, _ = execute(Index(IndexConfig(passage_words=40)), {"clean": clean}, Session(store, max_workers=0))
    config = AppConfig(
        model=str(model), model_name="tiny", index=index.location, store=store.location, threads=1
    )
    with served(application(config)) as url:
        yield Endpoint(url, store, config)


def application(config: AppConfig) -> Any:
    """The ASGI application of a configuration, with the engine that can be slowed down."""
    engine: Any = Handle(PacedEngine(config))
    search: Any = Handle(RetrievalReplica(config.index)) if config.index else None
    web: Any = Handle(WebReplica(*config.web_arguments)) if config.web else None
    return Ingress(config, engine, search, web).__serve_build_asgi_app__()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield running
        running.close()


class Visit:
    """An opened page that remembers everything which the browser complained about.

    With HEADWATER_SCREENSHOTS=folder the pictures are kept there.
    """

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        options = {"viewport": DESKTOP, "device_scale_factor": 1, **options}
        self.url = url
        self.page = browser.new_page(**options)
        self.complaints: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.goto(url)
        self.page.locator("#model", has_text="tiny").wait_for()

    def go(self, view: str) -> None:
        self.page.goto(f"{self.url}/#/{view}")

    def ask(self, question: str) -> None:
        """Ask, and wait for the whole answer."""
        self.page.get_by_label("Your question").fill(question)
        self.page.keyboard.press("Enter")
        self.page.locator(".turn:last-child").get_by_role("button", name="Regenerate").wait_for()

    def talkative(self) -> None:
        """Settings for written answers of some length: an untrained model says little by itself."""
        kept = json.dumps({"retrieval": False, "temperature": 1, "maxTokens": 300})
        self.page.evaluate("kept => localStorage.setItem('headwater-settings', kept)", kept)
        self.page.reload()

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true. (Playwright's own way needs `eval` in the page.)"""
        for _ in range(600):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never true: {expression}")

    def use_sources(self, wanted: bool) -> None:
        switch = self.page.get_by_role("switch", name="Use sources")
        if switch.is_checked() != wanted:
            switch.focus()
            self.page.keyboard.press("Space")

    def picture(self, name: str) -> None:
        if folder := os.environ.get("HEADWATER_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture
def visit(browser: Any, console: Endpoint) -> Iterator[Visit]:
    """A page of a browser without history; the browser has nothing to complain about."""
    opened = Visit(browser, console.url)
    yield opened
    opened.page.close()
    assert opened.complaints == []
