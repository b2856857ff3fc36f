"""Prompts are completed by calls to several engines; the calls change nothing about the completions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headwater.llm.inference.base import Sampling
from headwater.llm.inference.pool import LARGEST_CALL, SMALLEST_CALL, _Completer, calls
from tests.llm.models import save_model


def test_calls_take_every_prompt_once_the_longest_first_and_end_small() -> None:
    prompts = [[5] * (1 + number * 37 % 101) for number in range(1000)]
    made = calls(prompts)
    assert sorted(number for numbers in made for number in numbers) == list(range(1000))
    lengths = [len(prompts[number]) for numbers in made for number in numbers]
    assert lengths == sorted(lengths, reverse=True)
    sizes = [len(numbers) for numbers in made]
    assert sizes[0] == LARGEST_CALL and sizes == sorted(sizes, reverse=True)
    assert max(sizes[-8:]) == SMALLEST_CALL  # eight workers end within a small call of each other
    assert calls([]) == [] and calls([[5]]) == [[0]]


def test_a_completion_depends_on_its_prompts_number_and_not_on_its_call(tmp_path: Path) -> None:
    completer = _Completer(save_model(tmp_path / "saved"), Sampling(max_tokens=8, seed=3), 0.0)
    prompts = [[7, 8, 9], [20, 21], [7, 8, 9], [50]]

    def completed(*rows: list[int]) -> dict[int, Any]:
        results = [completer({"numbers": row, "prompts": [prompts[n] for n in row]}) for row in rows]
        return {
            number: completion["ids"]
            for result in results
            for number, completion in zip(result["numbers"], result["completions"], strict=True)
        }

    whole = completed([0, 1, 2, 3])
    assert completed([3, 1], [2], [0]) == whole
    assert whole[0] != whole[2], "equal prompts draw apart"
