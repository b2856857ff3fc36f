"""The page at `/` in a real Chromium: a question, its sources, the comparison of two answers.

With HEADWATER_SCREENSHOTS=folder the pictures are kept there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.llm.examples import rankings
from headwater.llm.examples.conversations import question_about
from tests.serving.conftest import ARTICLES, BRIDGE, Endpoint

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield running
        running.close()


class Visit:
    """An opened page that remembers everything which the browser complained about."""

    def __init__(self, browser: sync_api.Browser, url: str, **options: object) -> None:
        self.page = browser.new_page(**options)
        self.complaints: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.goto(url)

    def ask(self, question: str) -> None:
        self.page.get_by_label("Your question").fill(question)
        self.page.keyboard.press("Enter")
        self.page.get_by_role("button", name="Copy").wait_for()

    def picture(self, name: str) -> None:
        if folder := os.environ.get("HEADWATER_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture
def visit(browser: sync_api.Browser, endpoint: Endpoint) -> Iterator[Visit]:
    opened = Visit(browser, endpoint.url, viewport={"width": 1200, "height": 860}, device_scale_factor=2)
    yield opened
    opened.page.close()
    assert opened.complaints == []


def test_question_is_answered_with_sources_to_click(visit: Visit) -> None:
    visit.picture("console-welcome")
    visit.ask(question_about(BRIDGE))
    page = visit.page
    marker = page.get_by_role("button", name=f"Source 1: {BRIDGE}").first
    marker.click()
    link = page.get_by_role("link", name=BRIDGE)
    assert link.get_attribute("href") == "https://news.example/story/0"
    assert "noopener" in (link.get_attribute("rel") or "")
    used = page.locator(".source.current mark").first
    assert used.is_visible() and used.inner_text() in ARTICLES[BRIDGE]
    assert used.inner_text() in page.locator(".assistant .text").inner_text().replace("\xa0", " ")
    visit.picture("console-answer")


@pytest.mark.soak
@pytest.mark.parametrize(("button", "ranks"), [("A is better", [1, 2]), ("Equally good", [1, 1])])
def test_comparison_of_two_answers_is_kept_as_a_blind_ranking(
    visit: Visit, endpoint: Endpoint, button: str, ranks: list[int]
) -> None:
    before = len(rankings.read(endpoint.store))
    visit.ask(question_about(BRIDGE))
    visit.page.get_by_role("button", name="Compare two answers").click()
    visit.page.get_by_role("button", name="B is better").wait_for()
    visit.picture("console-compare")
    texts = visit.page.locator(".pair .text").all_inner_texts()
    visit.page.get_by_label("Why").fill("It says when.")
    visit.page.get_by_role("button", name=button).click()
    visit.page.get_by_text("Saved. Thank you.").wait_for()
    visit.picture("console-compared")
    found = rankings.read(endpoint.store)
    assert len(found) == before + 1
    kept = found[-1].ranking
    assert kept.prompt[-1]["content"] == question_about(BRIDGE)
    assert (kept.ranks, kept.blind, kept.reason) == (ranks, True, "It says when.")
    assert (kept.rater, kept.source, kept.model) == ("local", "console", "tiny")
    for answer, text in zip(kept.answers, texts, strict=True):  # in the order shown
        assert answer.text[:40] in text.replace("\xa0", " ")
        assert not re.search(r"\[\d+\]", answer.text)
    first, second = kept.answers
    assert first.temperature == second.temperature and abs(first.seed - second.seed) == 1
    assert kept.passages[0]["title"] == BRIDGE


@pytest.mark.soak
def test_both_places_are_taken_by_either_answer_of_the_request(visit: Visit, endpoint: Endpoint) -> None:
    """The first sample of a request is at place A about half of the time."""
    first_at_a = []
    visit.page.get_by_role("switch", name="Use sources").focus()
    visit.page.keyboard.press("Space")  # written answers are hardly ever equal
    for _ in range(8):
        visit.page.get_by_role("button", name="New chat").click()
        visit.ask(question_about(BRIDGE))
        visit.page.get_by_role("button", name="Compare two answers").click()
        visit.page.get_by_role("button", name="A is better").click()
        visit.page.get_by_text("Saved. Thank you.").wait_for()
        answers = rankings.read(endpoint.store)[-1].ranking.answers
        first_at_a.append(answers[0].seed < answers[1].seed)
    assert len(set(first_at_a)) == 2  # by chance alike once in 128 times


@pytest.mark.soak
def test_switch_turns_retrieval_off_and_the_keyboard_is_enough(visit: Visit) -> None:
    switch = visit.page.get_by_role("switch", name="Use sources")
    switch.focus()
    visit.page.keyboard.press("Space")
    assert not switch.is_checked()
    visit.ask("Who won?")
    assert visit.page.locator(".source").count() == 0


def test_markup_in_sources_and_questions_stays_text(visit: Visit) -> None:
    question = "Did a broken oven cause the fire that destroyed the harbour bakery?"
    visit.ask(f'<img src=x onerror="alert(2)"> {question}')
    assert visit.page.locator("main img, main script, main b").count() == 0
    assert "<img src=x" in visit.page.locator(".user").inner_text()
    assert "Bakery <b>burns</b> down" in visit.page.locator(".sources").inner_text()


@pytest.mark.soak
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_width_needs_no_sideways_scrolling(
    browser: sync_api.Browser, endpoint: Endpoint, scheme: str
) -> None:
    phone = Visit(browser, endpoint.url, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    phone.ask(question_about(BRIDGE))
    phone.page.locator(".marker").first.click()
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 360
    phone.picture(f"console-phone-{scheme}")
    phone.page.close()
    assert phone.complaints == []
