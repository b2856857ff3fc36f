"""Examples before questions, drawn by lm-evaluation-harness's rule (`lm_eval/api/samplers.py`, 0.4.13)."""

from __future__ import annotations

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.llm.benchmarks.examples import check_shots, shots_of, with_examples
from headwater.llm.benchmarks.tasks import CORE_TASKS, DEFAULT, TASKS, Item
from tests.llm.benchmarks import data


def numbered(*numbers: int) -> list[Item]:
    return [Item((("", str(number)),), 0, "") for number in numbers]


def drawn(pool: list[Item], *, own: bool) -> list[list[int]]:
    """The numbers of the two examples before each item of the pool."""
    found = with_examples(pool, pool, 2, own=own)
    return [[int(part) for part in item.pairs[0][0].split("\n\n") if part] for item in found]


def test_examples_are_those_that_lm_eval_draws() -> None:
    """Golden: what its `ContextSampler` draws with its seed for the same pools."""
    pool = numbered(*range(6))
    assert drawn(pool, own=False) == [[3, 0], [0, 5], [4, 0], [5, 0], [0, 2], [1, 0]]
    assert drawn(pool, own=True) == [[3, 4], [0, 4], [5, 0], [2, 1], [0, 5], [4, 3]]
    repeated = numbered(0, 0, 0, 1, 2)  # drawn again where only the question itself was drawn
    assert drawn(repeated, own=True) == [[1, 2], [1, 2], [1, 2], [0, 2], [1, 0]]
    assert with_examples(pool[:3], pool, 2, own=True) == with_examples(pool, pool, 2, own=True)[:3]


def test_solved_questions_and_an_empty_line_stand_before_each_choice() -> None:
    piqa = [TASKS["piqa"].item(record) for record in data.PIQA]
    first, second = with_examples(piqa, piqa, 1, own=True)
    solved = "Question: To open a jar\nAnswer: turn the lid\n\n"
    question = "Question: How do I dry a wet shoe?\nAnswer:"
    assert first.pairs == (
        (solved + question, " Put paper into it."),
        (solved + question, " Put it into water."),
    )
    assert (first.choices, first.gold, first.query) == (piqa[0].choices, piqa[0].gold, piqa[0].query)
    assert second.pairs[0][0].startswith(f"{question} Put paper into it.\n\nQuestion: To open")
    winogrande = [TASKS["winogrande"].item(record) for record in data.WINOGRANDE]
    (ann, _) = with_examples(winogrande, winogrande, 1, own=True)
    example = "The box did not fit into the bag because the bag was too small.\n\n"
    assert ann.pairs[1] == (f"{example}Ann thanked Mary because Mary", " had helped.")


def test_core_says_how_many_and_what_takes_no_examples_is_refused() -> None:
    """DCLM's table of CORE (Li et al. 2024, appendix G); HellaSwag is in it twice."""
    numbers = {name: shots_of(name, "core") for name in DEFAULT if TASKS[name].core}
    assert {name for name, number in numbers.items() if not number} == {
        "openbookqa",
        "winogrande",
        "lambada_openai",
    }
    assert {number for number in numbers.values() if number} == {10} and len(numbers) == 8 < CORE_TASKS
    check_shots(DEFAULT, "core")
    for name in ("lambada_openai", "mmlu", "gsm8k_cot_zeroshot", "humaneval"):
        with pytest.raises(ValueError, match=f"{name} is asked without examples only"):
            check_shots(["piqa", name], 5)
        check_shots([name], 0)


def test_too_few_questions_to_draw_from_are_an_error() -> None:
    pool = numbered(1, 2, 3)
    assert len(with_examples(pool, pool, 2, own=True)) == 3
    with pytest.raises(HeadwaterError, match="3 questions to draw 3 examples from"):
        with_examples(pool, pool, 3, own=True)
