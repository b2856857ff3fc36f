"""The chat view in a real Chromium: answers with sources, history, stop, regenerate, edit, settings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headwater.llm.examples.conversations import question_about
from headwater.llm.examples.system_prompts import SYSTEM_PROMPTS
from tests.serving.conftest import ARTICLES, BRIDGE
from tests.serving.console.conftest import PacedEngine, Visit

STORED = "JSON.parse(localStorage.getItem('headwater-chats'))"
SAID = "document.querySelector('.assistant .text')?.innerText.trim().length > 3"


def test_question_is_answered_with_sources_and_a_reload_keeps_the_chat(visit: Visit) -> None:
    page = visit.page
    page.get_by_text("6 documents").wait_for()
    visit.picture("console-welcome")
    page.get_by_role("button", name=question_about(BRIDGE)).click()  # an example of the corpus
    page.get_by_role("button", name="Regenerate").wait_for()
    marker = page.get_by_role("button", name=f"Source 1: {BRIDGE}").first
    marker.hover()
    assert "hinted" in page.locator(".source").first.get_attribute("class")
    marker.click()
    link = page.get_by_role("link", name=BRIDGE, exact=True)
    assert link.get_attribute("href") == "https://news.example/story/0"
    assert "noopener" in (link.get_attribute("rel") or "")
    used = page.locator(".source.current mark").first
    assert used.is_visible() and used.inner_text() in ARTICLES[BRIDGE]
    answer = page.locator(".assistant .text").inner_text()
    assert used.inner_text() in answer.replace("\xa0", " ")
    visit.picture("console-answer")

    page.reload()
    page.get_by_role("button", name="Regenerate").wait_for()
    assert page.locator(".assistant .text").inner_text() == answer
    assert page.locator(".source").count() >= 1
    assert page.locator("#chats li").count() == 1


@pytest.mark.soak
def test_markup_in_sources_and_questions_stays_text(visit: Visit) -> None:
    question = "Did a broken oven cause the fire that destroyed the harbour bakery?"
    visit.ask(f'<img src=x onerror="alert(2)"> {question}')
    assert visit.page.locator("#chat main img, #chat main script, #chat main b").count() == 0
    assert "<img src=x" in visit.page.locator(".user").inner_text()
    assert "Bakery <b>burns</b> down" in visit.page.locator(".sources").inner_text()


@pytest.mark.soak
def test_stopped_answer_keeps_what_was_said_and_can_be_asked_again(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit.page
    visit.talkative()
    monkeypatch.setattr(PacedEngine, "pause", 0.2)
    page.get_by_label("Your question").fill("Who won?")
    page.keyboard.press("Enter")
    visit.until(SAID)
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Regenerate").wait_for()
    stopped = page.evaluate(STORED)[0]["turns"][0]["answer"]
    assert stopped["stopped"] and stopped["text"]
    assert page.get_by_role("button", name="Send").is_visible()

    monkeypatch.setattr(PacedEngine, "pause", 0.0)
    page.get_by_role("button", name="Regenerate").click()
    answer = f"{STORED}[0].turns[0].answer"
    visit.until(f"{answer} && !{answer}.stopped")
    (turn,) = page.evaluate(STORED)[0]["turns"]
    assert turn["question"] == "Who won?" and turn["answer"]["text"]
    assert page.locator(".turn").count() == 1


@pytest.mark.soak
def test_reload_in_the_middle_of_an_answer_keeps_the_question_and_what_was_said(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit.talkative()
    monkeypatch.setattr(PacedEngine, "pause", 0.2)
    visit.page.get_by_label("Your question").fill("Who won?")
    visit.page.keyboard.press("Enter")
    visit.until(SAID)
    visit.page.reload()
    monkeypatch.setattr(PacedEngine, "pause", 0.0)
    visit.page.get_by_role("button", name="Regenerate").wait_for()
    assert visit.page.locator(".user p").inner_text() == "Who won?"
    assert visit.page.locator(".assistant .text").inner_text().strip()


@pytest.mark.soak
def test_edited_question_goes_on_from_there(visit: Visit) -> None:
    page = visit.page
    visit.ask(question_about(BRIDGE))
    visit.ask("Who won the chess game in Oslo?")
    page.get_by_role("button", name="Edit this question").first.click()
    page.get_by_label("Edit the question").fill("Why were nurses on strike?")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Regenerate").wait_for()
    assert page.locator(".user p").all_inner_texts() == ["Why were nurses on strike?"]
    (turn,) = page.evaluate(STORED)[0]["turns"]
    assert turn["question"] == "Why were nurses on strike?"


@pytest.mark.soak
def test_chats_are_renamed_opened_and_deleted(visit: Visit) -> None:
    page = visit.page
    visit.ask("Why were nurses on strike?")
    page.get_by_role("button", name="New chat").click()
    visit.ask("Who won the chess game in Oslo?")
    page.get_by_role("button", name="Rename Why were nurses on strike?").click()
    page.get_by_label("Title of the chat").fill("Nurses")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Nurses", exact=True).click()
    page.get_by_text("Why were nurses on strike?").wait_for()
    page.get_by_role("button", name="Delete Nurses").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("link", name="Nurses", exact=True).wait_for(state="detached")
    assert page.locator("#welcome").is_visible()
    assert [chat["title"] for chat in page.evaluate(STORED)] == ["Who won the chess game in Oslo?"]


@pytest.mark.soak
def test_history_is_bounded_and_the_oldest_chats_go(visit: Visit) -> None:
    many = [
        {"id": f"c{n}", "title": f"chat {n}", "updated": n + 1, "turns": [{"question": "q", "answer": None}]}
        for n in range(60)
    ]
    visit.page.evaluate("chats => localStorage.setItem('headwater-chats', chats)", json.dumps(many))
    visit.page.reload()
    visit.ask("Why were nurses on strike?")
    kept = visit.page.evaluate(STORED)
    assert len(kept) == 50
    assert kept[0]["title"] == "Why were nurses on strike?" and kept[-1]["title"] == "chat 11"


@pytest.mark.soak
def test_settings_reach_the_request_and_presets_show_their_measured_effect(visit: Visit) -> None:
    page, sent = visit.page, list[dict[str, Any]]()
    page.on(
        "request", lambda r: sent.append(json.loads(r.post_data)) if r.url.endswith("/completions") else None
    )
    page.get_by_role("button", name="Settings").click()
    assert "writes no word of an answer" in page.locator("#system-note").inner_text()  # quote mode
    page.get_by_label("System prompt", exact=True).select_option("careful")
    effects = page.locator("#effects")
    assert "20 % (15 to 25)" in effects.inner_text() and "60 % (55 to 65)" in effects.inner_text()
    page.get_by_label("System prompt", exact=True).select_option("fair")
    assert "has not been measured" in effects.inner_text()
    page.get_by_label("System prompt", exact=True).select_option("careful")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Maximum tokens").fill("7")
    visit.picture("console-settings")
    page.get_by_role("button", name="Done").click()
    visit.use_sources(False)
    page.reload()  # settings outlive it
    page.get_by_role("switch", name="Use sources").wait_for()
    visit.ask("Who won?")
    body = sent[-1]
    assert body["messages"][0] == {"role": "system", "content": SYSTEM_PROMPTS["careful"]}
    assert (body["temperature"], body["max_tokens"], body["retrieval"]) == (0.5, 7, False)
    assert page.locator(".source").count() == 0


@pytest.mark.soak
def test_answers_are_markdown_of_text_nodes_and_web_links_alone(visit: Visit) -> None:
    text = (
        "# Head\n\n**bold** <b>no</b> `code` [safe](https://a.example/x) [bad](javascript:alert(1))\n"
        "![pixel](https://evil.example/p.png)\n\n- one\n- two\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n```\n<i>\n```"
    )
    made = visit.page.evaluate(
        """async (text) => {
            const { markdown, withMarkers } = await import('/console/markdown.js');
            const host = document.createElement('div');
            const cited = `${text}\n\n\ue001 said [1]`;
            const spans = [[cited.length - 3, cited.length]];
            host.append(...markdown(withMarkers(cited, spans), (n) => `marker ${n}`));
            const links = [...host.querySelectorAll('a')].map((a) => [a.href, a.rel]);
            return { html: host.innerHTML, links };
        }""",
        text,
    )
    assert made["links"] == [["https://a.example/x", "noopener noreferrer"]]
    assert "<img" not in made["html"] and "<b>" not in made["html"] and "<i>" not in made["html"]
    for tag in (
        "<h3>Head",
        "<strong>bold</strong>",
        "<code>code</code>",
        "<li>two</li>",
        "<td>2</td>",
        "<pre",
    ):
        assert tag in made["html"]
