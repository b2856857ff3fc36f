"""Conversations made from documents."""

from __future__ import annotations

import pytest

from headwater.llm.examples.conversations import (
    ARTICLE_WORDS,
    HELDOUT_SHARE,
    PASSAGE_WORDS,
    clean_title,
    first_sentences,
    headline_conversation,
    passage_conversation,
    question_about,
    split_of,
)
from headwater.llm.examples.tasks import headline_tasks

DOCUMENT = {
    "id": "d1",
    "url": "https://www.bbc.co.uk/news/1",
    "title": "Council votes to rebuild old bridge - BBC News",
    "text": "The council voted on Tuesday. Mr. J. Smith was there. " + "More was said about the river. " * 40,
}


def test_a_headline_conversation_asks_with_the_lead_and_answers_with_the_cleaned_title() -> None:
    conversation = headline_conversation(DOCUMENT)
    assert conversation is not None
    question, answer = conversation
    assert question["content"].startswith("Write a headline for this article:\n\nThe council voted")
    assert len(question["content"].split()) == 6 + ARTICLE_WORDS
    assert answer == {"role": "assistant", "content": "Council votes to rebuild old bridge"}


def test_a_passage_conversation_answers_with_whole_first_sentences() -> None:
    conversation = passage_conversation(DOCUMENT)
    assert conversation is not None
    assert conversation[0]["content"] == question_about("Council votes to rebuild old bridge")
    answer = conversation[1]["content"]
    assert answer.startswith("The council voted on Tuesday. Mr. J. Smith was there. More")
    assert answer.endswith("river.")
    next_sentence = 6  # "More was said about the river."
    assert PASSAGE_WORDS - next_sentence < len(answer.split()) <= PASSAGE_WORDS


@pytest.mark.parametrize(
    ("title", "url", "cleaned"),
    [
        ("Bridge to be rebuilt | Al Jazeera", "https://www.aljazeera.com/x", "Bridge to be rebuilt"),
        ("Bridge to be rebuilt — The Guardian", "https://www.theguardian.com/x", "Bridge to be rebuilt"),
        ("Kim Jong-nam: police - and spies", "https://www.bbc.co.uk/x", "Kim Jong-nam: police - and spies"),
        ("Cleaner, greener - and becoming richer", "https://x.example.com/", None),
        ("NewsGrid - Al Jazeera's news hour", "https://www.aljazeera.com/", None),
        ("A bridge | of | The Guardian", "http://[broken", None),
        ("  Bridge  to\nbe rebuilt ", "", "Bridge to be rebuilt"),
        ("Quotable", "https://example.org", ""),
        ("", "", ""),
    ],
)
def test_a_title_loses_its_sites_name_and_nothing_else(title: str, url: str, cleaned: str | None) -> None:
    assert clean_title(title, url) == (title if cleaned is None else cleaned)


def test_sentences_do_not_end_at_abbreviations_and_initials() -> None:
    text = "On Jan. 5 Gen. A. B. Jones of the U.S. Army met Mr. Li. They spoke at length about it"
    assert first_sentences(text, 16) == "On Jan. 5 Gen. A. B. Jones of the U.S. Army met Mr. Li."
    assert first_sentences(text, 100) == text
    assert first_sentences(text, 5) == ""


def test_documents_without_title_or_text_make_no_conversation() -> None:
    assert headline_conversation({**DOCUMENT, "title": "Quotable"}) is None
    assert headline_conversation({**DOCUMENT, "text": " "}) is None
    assert passage_conversation({**DOCUMENT, "text": "word " * 100}) is None


def test_one_tenth_of_the_documents_is_held_out_and_always_the_same() -> None:
    names = [f"document {number}" for number in range(5000)]
    held = [name for name in names if split_of(name) == "heldout"]
    assert abs(len(held) / len(names) - HELDOUT_SHARE) < 0.015
    assert held == [name for name in names if split_of(name) == "heldout"]
    assert split_of("document 1") == "train"  # golden: the split must not move between releases
    documents = [{**DOCUMENT, "id": name} for name in names[:200]]
    tasks = {split: list(headline_tasks(documents, split)) for split in ("train", "heldout")}  # type: ignore[arg-type]
    assert sum(map(len, tasks.values())) == 200
    assert all(split_of(task.origin) == split for split, found in tasks.items() for task in found)
    assert tasks["heldout"][0].reference == "Council votes to rebuild old bridge"
    assert tasks["heldout"][0].prompt[-1]["role"] == "user"
