"""Questions and rules are those of lm-evaluation-harness 0.4.13: its templates, filled in by hand."""

from __future__ import annotations

import pytest

from headwater.llm.benchmarks.tasks import DEFAULT, TASKS, check_names
from tests.llm.benchmarks import data


def asked(name: str, record: dict) -> list[str]:
    """Context|continuation of every choice."""
    return ["|".join(pair) for pair in TASKS[name].item(record).pairs]


def test_arc() -> None:
    question = "Question: What do plants take from the air?\nAnswer:"
    expected = [f"{question}| carbon dioxide", f"{question}| iron", f"{question}| salt"]
    assert asked("arc_easy", data.ARC[0]) == asked("arc_challenge", data.ARC[0]) == expected
    assert [TASKS["arc_easy"].item(record).gold for record in data.ARC] == [0, 2]


def test_hellaswag_loses_the_marks_of_wikihow() -> None:
    first = asked("hellaswag", data.HELLASWAG[0])
    assert first[0] == "Baking bread: A woman kneads the dough. She| puts it into the oven."
    assert first[1].endswith("| paints the car red.") and first[2].endswith("| swims away.")
    second = TASKS["hellaswag"].item(data.HELLASWAG[1])
    context = "Home and garden: How to plant a tree. Dig a hole. Make it wide."
    assert second.pairs[2] == (context, " Put the roots into the hole.") and second.gold == 2


def test_piqa() -> None:
    question = "Question: To open a jar\nAnswer:"
    assert asked("piqa", data.PIQA[1]) == [f"{question}| hit the shelf", f"{question}| turn the lid"]
    assert [TASKS["piqa"].item(record).gold for record in data.PIQA] == [0, 1]


def test_boolq_has_no_before_yes() -> None:
    assert asked("boolq", data.BOOLQ[1]) == [
        "Farm -- The fields are wet.\nQuestion: are the fields wet?\nAnswer:| no",
        "Farm -- The fields are wet.\nQuestion: are the fields wet?\nAnswer:| yes",
    ]
    assert [TASKS["boolq"].item(record).gold for record in data.BOOLQ] == [0, 1]
    assert TASKS["boolq"].item(data.BOOLQ[1]).query == "Farm -- The fields are wet."


def test_sciq_has_its_support_above_the_question_and_the_right_answer_last() -> None:
    assert asked("sciq", data.SCIQ[0])[3] == "\nQuestion: What falls from clouds?\nAnswer:| rain"
    second = TASKS["sciq"].item(data.SCIQ[1])
    context = "A planet turns around a star.\nQuestion: What turns around a star?\nAnswer:"
    assert second.pairs[0] == (context, " a comet's tail") and second.gold == 3
    assert second.choices == ("a comet's tail", "a cloud", "a moon", "a planet")


def test_openbookqa_is_the_beginning_of_a_sentence() -> None:
    assert asked("openbookqa", data.OPENBOOKQA[0])[0] == "A frog begins its life as| a tadpole"


def test_winogrande_scores_what_follows_the_choice() -> None:
    assert asked("winogrande", data.WINOGRANDE[0]) == [
        "Ann thanked Mary because Ann| had helped.",
        "Ann thanked Mary because Mary| had helped.",
    ]
    assert TASKS["winogrande"].item(data.WINOGRANDE[0]).gold == 1


def test_mmlu_lists_the_choices_and_asks_for_a_letter() -> None:
    expected = (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "What is 1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    )
    item = TASKS["mmlu"].item(data.MMLU["abstract_algebra"][0])
    assert item.pairs == tuple((expected, f" {letter}") for letter in "ABCD") and item.gold == 1


def test_lambada_asks_for_the_last_word() -> None:
    item = TASKS["lambada_openai"].item(data.LAMBADA[0])
    assert item.pairs == ((data.LAMBADA[0]["query"], " bridge"),)
    assert TASKS["lambada_openai"].judge(item, True) == {"acc": True}


def test_gsm8k_asks_to_think_step_by_step() -> None:
    assert asked("gsm8k_cot_zeroshot", data.GSM8K[0]) == [
        "Q: Tom has 1,000 stones and buys 234. How many has he?\nA: Let's think step by step.|"
    ]


@pytest.mark.parametrize(
    ("answer", "strict", "flexible"),
    [
        (" He has 1000 + 234 stones. The answer is 1,234.", True, True),
        (" So he has $1234.", False, True),
        (" The answer is 1234. No, it is 5.", True, False),
        (" The answer is 12345.", False, False),
        (" I do not know.", False, False),
    ],
)
def test_gsm8k_takes_the_number_after_the_phrase_or_the_last_one(
    answer: str, strict: bool, flexible: bool
) -> None:
    task = TASKS["gsm8k_cot_zeroshot"]
    expected = {"flexible_extract": flexible, "strict_match": strict}
    assert task.judge(task.item(data.GSM8K[0]), answer) == expected


def test_humaneval_goes_on_from_the_prompt_and_calls_its_tests() -> None:
    item = TASKS["humaneval"].item(data.HUMANEVAL[0])
    beginning = 'def double(x: int) -> int:\n    """ Twice x.\n    >>> double(2)\n    4\n    """\n'
    assert item.pairs == ((beginning, ""),)
    assert item.reference == (
        "\n\ndef check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n"
        "\ncheck(double)"
    )
    assert TASKS["humaneval"].judge(item, {"text": "", "passed": True}) == {"pass_at_1": True}


def test_normalised_accuracy_divides_by_the_characters_of_a_choice() -> None:
    """-14 of 14 characters is better per character than -5 of 4; in all it is worse."""
    item = TASKS["arc_easy"].item(data.ARC[0])
    assert [len(choice) for choice in item.choices] == [14, 4, 4]
    assert TASKS["arc_easy"].judge(item, [-14.0, -5.0, -6.0]) == {"acc": False, "acc_norm": True}
    assert list(TASKS["arc_challenge"].judge(item, [-1.0, -5.0, -6.0])) == ["acc_norm", "acc"]
    assert TASKS["boolq"].judge(TASKS["boolq"].item(data.BOOLQ[0]), [-1.0, -2.0]) == {"acc": True}


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no benchmark arc-easy; did you mean arc_easy\? known: arc_easy, "):
        check_names(["piqa", "arc-easy"])
    with pytest.raises(ValueError, match="named twice"):
        check_names(["piqa", "piqa"])
    check_names(DEFAULT)
