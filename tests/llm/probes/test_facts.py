"""Questions made from documents: what is asked has one short answer, which the question does not tell."""

from __future__ import annotations

from typing import Any

from headwater.llm.grounding.agreement import mentions
from headwater.llm.grounding.questions import Messages
from headwater.llm.probes.facts import BLANK, Fact, make_facts


def document(text: str, title: str = "Old bridge to be rebuilt", name: str = "a") -> dict[str, Any]:
    return {"id": name, "url": f"https://news.example/{name}", "title": title, "text": text}


def facts_of(text: str, title: str = "Old bridge to be rebuilt", written: str = "") -> list[Fact]:
    def write(prompts: list[Messages]) -> list[str]:
        return [written] * len(prompts)

    return make_facts([document(text, title)], write, 4, 0)[0]


def test_the_last_name_or_number_that_is_told_nowhere_else_becomes_a_blank() -> None:
    (fact,) = facts_of("The council voted on Tuesday to rebuild the old stone bridge near Leeds.")
    assert fact.kind == "blank" and fact.reference == "Leeds"
    assert fact.question == (
        "From the article “Old bridge to be rebuilt”. Fill in the blank: "
        f"The council voted on Tuesday to rebuild the old stone bridge near {BLANK}."
    )
    assert fact.prompt("Be brief.")[0] == {"role": "system", "content": "Be brief."}
    assert "passage" not in fact.prompt()[-1]["content"] and len(fact.prompt()) == 1
    told = "Old bridge near Leeds to be rebuilt"
    (fact,) = facts_of("The council gave 38 million pounds to rebuild the old bridge near Leeds.", told)
    assert fact.reference == "38", "the headline tells the name"


def test_weekdays_and_parts_of_words_are_no_answers() -> None:
    assert not facts_of("The council voted again to rebuild the old stone bridge on Tuesday.")
    assert not facts_of("The council voted to rebuild the 51-year-old stone bridge with $8bn of loans.")


def test_how_many_is_asked_of_a_claim_that_opens_with_a_number() -> None:
    (fact,) = facts_of("Twelve people were taken to the nearest hospital, police said.")
    assert fact.kind == "count" and fact.reference == "Twelve"
    assert fact.question.endswith(". How many people were taken to the nearest hospital?")


def test_a_written_question_is_kept_if_it_asks_for_the_one_name_or_number_it_does_not_tell() -> None:
    claim = "The council of Leeds voted to rebuild the old stone bridge for 38 million pounds."
    question = "How much will the council of Leeds pay to rebuild the old stone bridge?"
    (fact,) = facts_of(claim, written=f"{question}\nAnd more.")
    assert (fact.kind, fact.question, fact.reference) == ("written", question, "38")
    for bad in (
        "What did the council of Leeds vote to rebuild?",
        "Which town voted to rebuild the Leeds bridge?",
    ):
        (fact,) = facts_of(claim, written=bad)
        assert fact.kind == "blank", bad


def test_facts_are_the_same_each_time_and_no_more_than_asked_for() -> None:
    towns = ["Leeds", "Bergen", "Turin", "Porto", "Ghent", "Lyon"]
    documents = [
        document(f"The council voted to rebuild the old stone bridge near {town}.", name=town)
        for town in towns
    ]
    facts, counts = make_facts(documents, None, 4, 0)
    assert make_facts(documents, None, 4, 0) == (facts, counts)
    assert [fact.document_id for fact in facts] == towns[:4]
    assert counts == {"claims": 6, "blank": 4, "questions": 4}


def test_a_reference_is_mentioned_in_digits_or_words_with_other_endings() -> None:
    assert mentions("It was twelve people.", "12") and mentions("12", "Twelve")
    assert mentions("In the Russian capital", "Russian") and mentions(
        "European Union's", "the European Union"
    )
    assert not mentions("It was 120 people.", "12") and not mentions("The Union", "European Union")
    assert not mentions("", "12") and not mentions("anything", "")
