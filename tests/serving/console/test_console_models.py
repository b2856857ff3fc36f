"""The console of a server with several models: a person chooses one, and it answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from transformers import AutoModelForCausalLM

from headwater.cluster.storage.store import Store
from headwater.serving.config import AppConfig
from tests.llm.inference.test_adapted import peft_folder
from tests.serving.conftest import Endpoint
from tests.serving.console.conftest import Visit, application
from tests.serving.in_process import served

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def console(news_config: AppConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    root = tmp_path_factory.mktemp("console-models")
    model: Any = AutoModelForCausalLM.from_pretrained(news_config.model)
    adapter = peft_folder(root / "adapter", 1, model)
    settings = {"store": str(root / "store"), "index": "", "models": {"tuned": {"path": str(adapter)}}}
    config = AppConfig.model_validate(news_config.model_dump() | settings)
    with served(application(config)) as url:
        yield Endpoint(url, Store(config.store), config)


def test_a_person_chooses_the_model_and_a_reload_keeps_it(visit: Visit, console: Endpoint) -> None:
    page = visit.page
    visit.ask("Who is there?")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Model", exact=True).select_option("tuned")
    page.get_by_label("Maximum tokens").fill("12")
    page.get_by_role("button", name="Done").click()
    assert page.locator("#model").inner_text() == "tuned"
    visit.ask("And who is there?")
    page.reload()
    page.locator("#model", has_text="tuned").wait_for()
    assert 'headwater_model_answers_total{model="tuned"} 1.0' in httpx.get(f"{console.url}/metrics").text
    httpx.delete(f"{console.url}/v1/models/tuned").raise_for_status()
    page.reload()  # what is gone is not chosen any more
    page.locator("#model", has_text="tiny").wait_for()
