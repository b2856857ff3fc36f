"""The live web in the console: its switch, marked sources, and what could not be read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headwater.cluster.storage.store import Store
from headwater.serving.config import AppConfig
from tests.data_pipeline.crawl.web import Web, response, serving
from tests.serving.conftest import Endpoint
from tests.serving.console.conftest import Visit, application
from tests.serving.in_process import served
from tests.serving.web.conftest import HARBOUR, QUESTION, config, plain

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def pages() -> Iterator[Web]:
    with serving() as web:
        web.site("ferry.example", **{"/": plain(HARBOUR), "/gone": lambda request: response(status=404)})
        yield web


@pytest.fixture(scope="module")
def console(news_config: AppConfig, news_store: Store, pages: Web) -> Iterator[Endpoint]:
    live = news_config.model_copy(update={"web": config()})
    with served(application(live)) as url:
        yield Endpoint(url, news_store, live)


def test_a_switch_lets_answers_cite_pages_that_questions_name(visit: Visit, pages: Web) -> None:
    page = visit.page
    switch = page.get_by_role("switch", name="Read linked pages")
    url, gone = pages.url("ferry.example"), pages.url("ferry.example", "/gone")
    visit.ask(f"{QUESTION} {url}")
    assert page.locator(".source .live").count() == 0 and pages.requests == []
    switch.focus()
    page.keyboard.press("Space")
    visit.ask(f"{QUESTION} {url} {gone}")
    assert page.locator(".source .live").first.inner_text() == "live web"
    told = page.locator(".turn:last-child .assistant .note").inner_text()
    assert gone in told and "http status" in told
    page.reload()  # setting and marks outlive it
    page.locator(".source .live").first.wait_for()
    assert switch.is_checked()
    visit.use_sources(False)
    assert switch.is_disabled()
