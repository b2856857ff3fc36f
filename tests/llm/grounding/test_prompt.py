"""The prompt with numbered passages."""

from __future__ import annotations

from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.prompt import numbered, read_numbered, with_sources

PASSAGES = [
    Passage("a", "", "Old bridge", "The council voted.\n\n[7] A list\nof numbers.", 0, 40),
    Passage("b", "", "", "Farmers fear for their wheat.", 0, 29),
    Passage("c", "", "Chess [1]", "A draw.", 0, 7),
]


def test_passages_are_numbered_before_the_last_question() -> None:
    before = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}]
    *kept, last = with_sources([*before, {"role": "user", "content": "What did it cost?"}], PASSAGES[1:])
    assert kept == before
    assert last["content"].split("\n\n") == [
        "Answer the question from these sources.",
        "[1] \nFarmers fear for their wheat.",
        "[2] Chess [1]\nA draw.",
        "What did it cost?",
    ]


def test_numbered_passages_are_read_back() -> None:
    read = read_numbered(numbered(PASSAGES))
    assert [(p.title, p.text) for p in read] == [(p.title, p.text) for p in PASSAGES]
    assert read_numbered("no passages") == read_numbered("") == []
