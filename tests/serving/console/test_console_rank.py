"""Ranking in a real Chromium: two to four answers, blind, by keyboard; the record is in the store."""

from __future__ import annotations

import re
from typing import Any

import pytest

from headwater.llm.examples import rankings
from headwater.llm.examples.conversations import question_about
from tests.serving.conftest import BRIDGE, Endpoint
from tests.serving.console.conftest import PacedEngine, Visit

pytestmark = pytest.mark.soak


def ranked(visit: Visit, count: int) -> list[str]:
    """Get so many different answers in the view for ranking; their texts as shown."""
    page = visit.page
    visit.use_sources(False)  # written answers are hardly ever equal
    visit.go("rank")
    page.locator("#rank-question").fill(question_about(BRIDGE))
    page.get_by_label("Answers", exact=True).select_option(str(count))
    page.get_by_role("button", name="Get answers").click()
    page.locator(".judgement").wait_for()
    texts: list[str] = page.locator(".pair .text").all_inner_texts()
    assert len(texts) == count
    return texts


def test_three_answers_are_ranked_by_keys_with_a_tie_a_reason_and_a_name(
    visit: Visit, console: Endpoint
) -> None:
    page = visit.page
    visit.go("rank")
    page.get_by_label("Your name").fill("ann")
    page.get_by_label("Your name").press("Tab")
    visit.go("chat")
    before = len(rankings.read(console.store))
    texts = ranked(visit, 3)
    page.get_by_label("Why").fill("It says when.")
    page.locator(".judgement").focus()
    for key in ("2", "1", "t", "3"):
        page.keyboard.press(key)
    page.get_by_text("B, then A = C. Save with Enter.").wait_for()
    visit.picture("console-rank")
    page.keyboard.press("Enter")
    page.get_by_text("Saved. Thank you.").wait_for()
    page.get_by_text(f"{before + 1} ranking").wait_for()
    page.get_by_text("1 by you").wait_for()
    kept = rankings.read(console.store)[-1].ranking
    assert (kept.ranks, kept.blind, kept.reason, kept.rater) == ([2, 1, 2], True, "It says when.", "ann")
    assert len({answer.seed for answer in kept.answers}) == 3
    assert len({answer.temperature for answer in kept.answers}) == 1
    assert all(answer.finish_reason in ("stop", "length") for answer in kept.answers)
    assert {answer.model_key for answer in kept.answers} == {kept.model_key} != {""}
    for answer, text in zip(kept.answers, texts, strict=True):  # in the order shown
        assert words(answer.text)[:5] == words(text)[:5]


def test_skip_keeps_nothing(visit: Visit, console: Endpoint) -> None:
    before = len(rankings.read(console.store))
    ranked(visit, 2)
    visit.page.keyboard.press("s")
    visit.page.get_by_text("Skipped.").wait_for()
    assert len(rankings.read(console.store)) == before


@pytest.mark.parametrize(("key", "ranks"), [("1", [1, 2]), ("2", [2, 1]), ("t", [1, 1])])
def test_two_answers_need_one_key(visit: Visit, console: Endpoint, key: str, ranks: list[int]) -> None:
    ranked(visit, 2)
    visit.page.keyboard.press(key)
    visit.page.get_by_text("Saved. Thank you.").wait_for()
    assert rankings.read(console.store)[-1].ranking.ranks == ranks


def test_an_answer_without_words_is_asked_for_again(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PacedEngine, "silent", 1)
    assert all(ranked(visit, 2))


def test_answers_without_words_cannot_be_ranked(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PacedEngine, "silent", 100)
    page = visit.page
    visit.use_sources(False)
    visit.go("rank")
    page.locator("#rank-question").fill(question_about(BRIDGE))
    page.get_by_role("button", name="Get answers").click()
    page.get_by_text("The model said nothing: there is nothing to compare.").wait_for()
    assert page.locator(".judgement").count() == 0


def test_keys_typed_into_the_reason_rank_nothing(visit: Visit, console: Endpoint) -> None:
    before = len(rankings.read(console.store))
    ranked(visit, 2)
    visit.page.get_by_label("Why").press_sequentially("1 t s")
    assert visit.page.get_by_role("button", name="A is better").is_enabled()
    assert len(rankings.read(console.store)) == before


def test_comparison_in_a_chat_goes_on_with_the_better_answer(visit: Visit, console: Endpoint) -> None:
    page = visit.page
    visit.ask(question_about(BRIDGE))
    page.get_by_role("button", name="Compare two answers").click()
    page.get_by_role("button", name="B is better").wait_for()
    visit.picture("console-compare")
    texts = page.locator(".pair .text").all_inner_texts()
    page.get_by_role("button", name="B is better").click()
    page.get_by_text("Saved. Thank you.").wait_for()
    kept = rankings.read(console.store)[-1].ranking
    assert (kept.ranks, kept.rater, kept.source, kept.model) == ([2, 1], "local", "console", "tiny")
    assert kept.passages[0]["title"] == BRIDGE
    for answer in kept.answers:
        assert not re.search(r"\[\d+\]", answer.text)
    (chat,) = page.evaluate("JSON.parse(localStorage.getItem('headwater-chats'))")
    assert words(chat["turns"][0]["answer"]["text"])[:5] == words(texts[1])[:5]


def test_a_seed_shown_first_is_not_always_the_first_asked_for(visit: Visit) -> None:
    """The order of requests tells nothing of the place: both places are taken by either."""
    bodies: list[Any] = []
    visit.page.on(
        "request", lambda r: bodies.append(r.post_data_json) if r.url.endswith("/completions") else None
    )
    saved: list[Any] = []
    visit.page.on(
        "request", lambda r: saved.append(r.post_data_json) if r.url.endswith("/v1/rankings") else None
    )
    first_at_a = set()
    for _ in range(8):
        bodies.clear()
        ranked(visit, 2)
        visit.page.keyboard.press("t")
        visit.page.get_by_text("Saved. Thank you.").wait_for()
        first_at_a.add(saved[-1]["answers"][0]["seed"] == bodies[-2]["seed"])
        visit.go("chat")
    assert len(first_at_a) == 2  # by chance alike once in 128 times


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.replace("\xa0", " "))
