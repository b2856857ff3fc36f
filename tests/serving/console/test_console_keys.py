"""The view of keys and usage in a real Chromium: an admin adds a key, sees its usage, and revokes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headwater.serving.api.keys.auth import read_keys
from headwater.serving.config import AppConfig
from tests.serving.console.conftest import DESKTOP, application
from tests.serving.in_process import served

pytestmark = pytest.mark.soak


@pytest.fixture
def guarded(model_folder: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    file = tmp_path / "keys"
    file.write_text("sk-boss boss admin\nsk-anna anna\n")
    config = AppConfig(
        model=str(model_folder),
        model_name="tiny",
        store=str(tmp_path / "store"),
        api_keys=str(file),
        threads=1,
    )
    with served(application(config)) as url:
        yield url, file


def _page(browser: Any, url: str, key: str) -> Any:
    page = browser.new_page(viewport=DESKTOP)
    page.add_init_script(f"sessionStorage.setItem('headwater-api-key', '{key}')")
    page.goto(f"{url}/#/keys")
    page.get_by_text("tiny", exact=True).wait_for()
    return page


def test_an_admin_adds_a_key_sees_its_usage_and_revokes_it(browser: Any, guarded: tuple[str, Path]) -> None:
    url, file = guarded
    page = _page(browser, url, "sk-boss")
    page.get_by_role("link", name="Keys").wait_for()
    page.get_by_label("Name of a new key").fill("carl")
    page.get_by_label("may rank answers").check()
    page.get_by_label("Tokens a day").fill("5000")
    page.get_by_role("button", name="Make a key").click()
    shown = page.get_by_role("status").locator("code")
    shown.wait_for()
    secret = shown.inner_text()
    body = {"model": "tiny", "prompt": "The", "max_tokens": 3}
    headers = {"authorization": f"Bearer {secret}"}
    assert httpx.post(f"{url}/v1/completions", json=body, headers=headers).status_code == 200
    page.reload()
    page.get_by_role("row", name="carl").nth(1).wait_for()  # in both tables
    assert "tiny" in page.get_by_role("row", name="carl").nth(1).inner_text()
    assert secret not in page.content() and "sk-" not in page.content()
    assert "tokens_per_day=5000" in page.content()
    page.get_by_role("button", name="carl").click()
    page.get_by_role("button", name="carl").click()  # the first press asks
    page.get_by_role("button", name="carl").wait_for(state="detached")
    assert [key.name for key in read_keys(str(file))] == ["boss", "anna"]
    page.close()


def test_who_is_no_admin_sees_no_link_to_keys(browser: Any, guarded: tuple[str, Path]) -> None:
    page = _page(browser, guarded[0], "sk-anna")
    page.get_by_text("has not the role").wait_for()
    assert not page.get_by_role("link", name="Keys").is_visible()
    page.close()
