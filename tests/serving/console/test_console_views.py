"""The views of the store and of tokens in a real Chromium, at both widths and themes, looked at by axe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headwater.llm.examples.conversations import question_about
from tests.serving.conftest import BRIDGE, Endpoint
from tests.serving.console import console_store
from tests.serving.console.conftest import DESKTOP, PHONE, Visit

pytestmark = pytest.mark.soak


def test_runs_show_stages_curves_and_the_report_card(visit: Visit) -> None:
    page = visit.page
    visit.go("runs")
    page.get_by_role("link", name="again / 1").wait_for()
    visit.picture("console-runs")
    page.get_by_role("link", name="news / 1").click()
    page.get_by_role("heading", name="news, attempt 1").wait_for()
    assert page.locator(".stages li").count() == 4
    loss = page.get_by_role("img", name="Loss: loss 6 → 2.17").first
    assert loss.locator("polyline").count() == 2  # of training and of validation
    points = loss.locator("polyline").first.get_attribute("points").split()
    assert len(points) == 79  # 80 steps, one of them without a loss
    page.get_by_role("img", name="Reward: reward 0 → 0.95").wait_for()
    page.get_by_text("Report card of news").wait_for()
    visit.picture("console-run")


def test_running_stage_has_a_curve_already(visit: Visit) -> None:
    visit.go("runs/again/1")
    visit.page.get_by_role("heading", name="pretrain: 30 steps").wait_for()
    assert visit.page.locator(".stages li").last.inner_text().startswith("pretrain")


def test_corpus_shows_the_funnel_and_why_a_page_was_dropped(visit: Visit) -> None:
    page = visit.page
    visit.go("corpus")
    page.get_by_text("6 of 8 documents kept (75.0 %)").wait_for()
    assert "near duplicate 1" in page.locator(".funnel li").last.inner_text()
    search = page.get_by_label("Why was this page kept or dropped?")
    search.fill(console_store.SPAM)
    search.press("Enter")
    page.get_by_text("Dropped by gopher: top 2 gram: 0.91, the limit is 0.2.").wait_for()
    visit.picture("console-corpus")
    search.fill("stone bridge")  # a part of a title
    search.press("Enter")
    page.locator(".found").get_by_role("link", name=BRIDGE).wait_for()
    assert page.locator(".found .badge").inner_text() == "kept"
    search.fill("nowhere")
    search.press("Enter")
    page.get_by_text("No document of this corpus").wait_for()


def test_corpus_shows_its_data_card_and_gives_the_files(visit: Visit) -> None:
    page = visit.page
    visit.go("corpus")
    page.get_by_role("region", name="Licences that the pages name").get_by_text("none named").wait_for()
    for name in ("card.md", "croissant.json"):
        with page.expect_download() as begun:
            page.get_by_role("button", name=f"Download {name}").click()
        assert begun.value.suggested_filename == name
        text = Path(begun.value.path()).read_text()
        assert "# Data card" in text if name == "card.md" else json.loads(text)["@type"] == "sc:Dataset"


def test_duplicate_leads_to_what_it_is_a_copy_of(visit: Visit) -> None:
    visit.go("corpus")
    visit.page.get_by_label("Why was this page kept or dropped?").fill(console_store.COPY)
    visit.page.keyboard.press("Enter")
    visit.page.locator(".linklike").click()
    visit.page.locator(".found").get_by_role("link", name=BRIDGE).wait_for()


def test_lineage_leads_from_the_served_model_to_its_documents(visit: Visit) -> None:
    page = visit.page
    visit.go("lineage")
    page.get_by_role("paragraph").filter(has_text="This server answers with").get_by_role("link").click()
    page.get_by_role("heading", name=f"rl/{console_store.RL}").wait_for()
    assert page.locator(".tree").first.get_by_role("link").all_inner_texts() == [
        "rl/22222222",
        "pretrain/11111111",
        "clean/00000000",
    ]
    visit.picture("console-lineage")
    page.get_by_role("link", name="clean/00000000").click()
    page.get_by_role("heading", name=f"clean/{console_store.CLEAN}").wait_for()
    page.get_by_role("heading", name="Used by").wait_for()


def test_tokens_are_shown_with_ids_and_forked(visit: Visit, console: Endpoint) -> None:
    page = visit.page
    visit.go("tokens")
    page.get_by_role("button", name="next?").wait_for()
    page.get_by_label("Text", exact=True).fill("The old stone bridge")
    visit.until(
        "[...document.querySelectorAll('.piece span')].map(s => s.textContent).join('').endsWith('bridge')"
    )
    pieces = page.locator(".piece:not(.next) > span").all_inner_texts()
    assert "".join(pieces).replace("␣", " ") == "The old stone bridge"
    visit.picture("console-tokens")
    page.locator(".piece").nth(1).click()  # what else could have followed the first token
    page.get_by_text("In the place of token 2").wait_for()
    choice = page.locator(".pick").nth(1).locator("code").inner_text()
    page.locator(".pick").nth(1).click()
    expected = pieces[0] + choice
    assert page.get_by_label("Text", exact=True).input_value() == expected.replace("␣", " ")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_view_scrolls_sideways_and_axe_finds_no_serious_fault(
    browser: Any, console: Endpoint, viewport: dict[str, int], scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    visit = Visit(browser, console.url, viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    page, faults = visit.page, dict[str, Any]()
    name = f"{'phone' if viewport is PHONE else 'desktop'}-{scheme}"

    def look(place: str) -> None:
        found = axe.run(page).response["violations"]
        faults[place] = [
            (fault["id"], [node["html"][:200] for node in fault["nodes"]])
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > viewport["width"]:
            faults[place].append(("wide", wide))
        visit.picture(f"console-{place.replace('/', '-')}-{name}")

    look("welcome")
    visit.ask(question_about(BRIDGE))
    page.locator(".marker").first.click()
    look("answer")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt", exact=True).select_option("careful")
    look("settings")
    page.get_by_role("button", name="Done").click()
    waits = {
        "rank": "by you",
        "runs": "Every attempt",
        "runs/news/1": "Report card of news",
        "corpus": "What cleaning removed",
        "tokens": "What may come next",
        "lineage": "Artifacts, the latest first",
        f"lineage/rl/{console_store.RL}": "Made from",
    }
    for view, text in waits.items():
        visit.go(view)
        page.get_by_text(text).first.wait_for()
        look(view)
    page.close()
    assert not any(faults.values()), faults
    assert visit.complaints == []
