"""Tasks that a program makes: what is held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.llm.examples.tasks import Task
from headwater.llm.rl.rewards.made_tasks import made_tasks

MINE = """
from headwater.llm.examples.tasks import Task

def twice():
    for number in list(range(100)) * 2:
        yield f"What is {number}/2?", str(number / 2)

def together():
    for number in range(200):
        yield Task(f"pair {number // 2}", [{"role": "user", "content": f"Say {number}."}], str(number))
"""


def prompts(tasks: list[Task]) -> list[str]:
    return [task.prompt[0]["content"] for task in tasks]


def test_both_orders_of_a_sum_are_in_one_split() -> None:
    tasks = made_tasks("arithmetic")
    sums = {
        split: [
            tuple(map(int, prompt[len("What is ") : -1].split(" + "))) for prompt in prompts(tasks[split])
        ]
        for split in tasks
    }
    assert len({*sums["train"], *sums["heldout"]}) == 10_000
    unseen = set(sums["heldout"])
    assert all((second, first) in unseen for first, second in unseen)
    assert 0.07 < len(unseen) / 10_000 < 0.13


def test_what_belongs_together_is_in_one_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    twice = made_tasks("mine.py:twice")
    assert len(twice["train"]) + len(twice["heldout"]) == 200 and twice["heldout"]
    assert not {*prompts(twice["train"])} & {*prompts(twice["heldout"])}
    own = made_tasks("mine.py:together")
    assert len(own["train"]) + len(own["heldout"]) == 200 and own["heldout"]
    assert not {task.origin for task in own["train"]} & {task.origin for task in own["heldout"]}
