"""What is known from sampled answers, and the examples that teach it."""

from __future__ import annotations

from headwater.llm.probes.facts import Fact
from headwater.llm.probes.knowledge import (
    I_DO_NOT_KNOW,
    Asked,
    consistency,
    examples,
    measure,
    verdict,
)
from headwater.llm.probes.results import knowledge_rows

QUESTION = "From the article “Old bridge”. Fill in the blank: The bridge near ____ is rebuilt."


def asked(samples: list[str], answer: str = "", reference: str = "Leeds") -> Asked:
    return Asked(
        Fact(QUESTION, reference, "The bridge near Leeds is rebuilt.", "a", "blank"), samples, answer
    )


def test_an_answer_is_right_refused_or_wrong() -> None:
    assert verdict("Near Leeds, I think.", "Leeds") == "right"
    assert verdict("York", "Leeds") == "wrong"
    for text in (I_DO_NOT_KNOW, "I do not know.", "I'm not able to say.", "", "  "):
        assert verdict(text, "Leeds") == "refused", text
    assert verdict("I don't know, maybe Leeds.", "Leeds") == "refused"


def test_known_is_mostly_right_and_unknown_never() -> None:
    states = [asked(["Leeds"] * right + ["York"] * (5 - right)).state for right in range(6)]
    assert states == ["unknown", "unsure", "unsure", "known", "known", "known"]
    assert asked([I_DO_NOT_KNOW] * 5).state == "unknown"


def test_consistency_is_the_share_of_pairs_that_name_the_same() -> None:
    assert consistency(["York", "It is York.", "york city, York"], QUESTION) == 1
    assert consistency(["York", "York", "Bath"], QUESTION) == 1 / 3
    assert consistency(["The river bank", "the bank of a river", "old cars"], QUESTION) == 1 / 3
    assert consistency([I_DO_NOT_KNOW, "", "York"], QUESTION) == 1 / 3


def test_refusals_are_measured_apart_for_what_the_first_model_knew_and_did_not() -> None:
    before = [asked(["Leeds"] * 5, "Leeds"), asked(["York"] * 5, "York"), asked(["York", "Leeds"], "York")]
    after = [
        asked([""] * 5, I_DO_NOT_KNOW),
        asked(["York"] * 5, I_DO_NOT_KNOW),
        asked(["Leeds"] * 5, "Leeds"),
    ]
    first, last = measure(before, before), measure(after, before)
    shares = {name: (round(first[name].value, 2), round(last[name].value, 2)) for name in first}
    assert shares["right"] == (0.33, 0.33) and shares["hallucinated"] == (0.67, 0)
    assert shares["refused"] == (0, 0.67)
    assert shares["refused_of_known"] == (0, 1) and shares["refused_of_unknown"] == (0, 1)
    assert shares["right_sampled"] == (0.5, 0.33)
    assert first["right"].low < 1 / 3 < first["right"].high and first["refused_of_known"].count == 1
    rows = knowledge_rows({"base": before, "sft": after})
    assert rows["refused, of what base did not know"][0].startswith("0.00")
    assert rows["refused, of what base did not know"][1].startswith("1.00")
    assert rows["known, unsure, unknown"] == ["1, 1, 1", "1, 0, 2"]


def test_examples_refuse_what_is_unknown_and_answer_what_is_known_in_equal_numbers() -> None:
    known, unsure = asked(["Leeds"] * 5), asked(["Leeds", *["York"] * 4])
    unknown = [asked(["York"] * 5, reference=name) for name in ("Bath", "Cork", "Graz", "Lyon", "Porto")]
    made = examples([known, unsure, *unknown], "Be brief.")
    answers = [example["messages"][-1]["content"] for example in made]
    assert answers == ["Leeds.", I_DO_NOT_KNOW] * 4, "the rarer kind at most four times"
    assert [m["role"] for m in made[0]["messages"]] == ["system", "user", "assistant"]
    assert [example["messages"][-1]["content"] for example in examples([unsure, unknown[0]])] == [
        I_DO_NOT_KNOW
    ]
