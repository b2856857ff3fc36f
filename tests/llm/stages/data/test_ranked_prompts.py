"""Prompts that people ranked, as tasks: one each, in the split of the reward stage, kept for the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.llm.examples import rankings
from headwater.llm.examples.preferences import split_of_prompt
from headwater.llm.examples.rankings import Ranking
from headwater.llm.rl.config import RlConfig
from headwater.llm.stages.data.ranked_prompts import fingerprint, keep, kept_tasks
from headwater.llm.stages.rl import Rl
from headwater.llm.stages.trace import reading


def question(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Why {number}?"}]


def rank(store: Store, number: int, rater: str = "anna") -> None:
    answers: list[dict[str, Any]] = [{"text": "Because."}, {"text": f"{rater} knows."}]
    kept = {
        "prompt": question(number),
        "answers": answers,
        "ranks": [1, 2],
        "rater": rater,
        "source": "console",
    }
    rankings.save(store, Ranking.model_validate(kept))


def test_a_prompt_that_two_people_ranked_is_one_task_of_the_reward_stages_split(tmp_path: Path) -> None:
    store, output = Store(str(tmp_path / "store")), Artifact(str(tmp_path / "rl"))
    for number in range(40):
        rank(store, number)
    rank(store, 0, "ben")
    tasks = keep(True, store, output)
    assert sorted(task.prompt[0]["content"] for some in tasks.values() for task in some) == sorted(
        question(number)[0]["content"] for number in range(40)
    )
    assert all(split_of_prompt(task.prompt) == split for split, some in tasks.items() for task in some)
    assert tasks["heldout"] and not any(task.verifiable for task in tasks["train"])


def test_rankings_that_arrive_during_a_run_change_its_key_and_not_its_tasks(tmp_path: Path) -> None:
    store, output = Store(str(tmp_path / "store")), Artifact(str(tmp_path / "rl"))
    rank(store, 1)
    before, first = fingerprint(True, store), keep(True, store, output)
    rank(store, 2)
    assert fingerprint(True, store) != before
    assert keep(True, store, output) == kept_tasks(output) == first


def test_a_file_of_pairs_takes_the_place_of_the_stores_rankings(tmp_path: Path) -> None:
    store, file = Store(str(tmp_path / "store")), tmp_path / "pairs.jsonl"
    rank(store, 1)
    line = {"prompt": question(7), "chosen": "Because.", "rejected": "No."}
    file.write_text(f"{json.dumps(line)}\n" * 2)
    tasks = keep(str(file), store, Artifact(str(tmp_path / "rl")))
    (task,) = [*tasks["train"], *tasks["heldout"]]
    assert (task.prompt, task.origin) == (question(7), f"{file}:1")
    before = fingerprint(str(file), store)
    file.write_text(json.dumps(line | {"prompt": question(8)}))
    assert fingerprint(str(file), store) != before


def test_steps_that_trained_on_a_ranked_prompt_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, output = Store(str(tmp_path / "store")), Artifact(str(tmp_path / "rl"))
    for number in range(12):
        rank(store, number)
    origin = keep(True, store, output)["train"][0].origin
    (tmp_path / "talks.jsonl").write_text(json.dumps({"messages": question(99)}))
    config = RlConfig.model_validate(
        {"prompts": [str(tmp_path / "talks.jsonl")], "rankings": True, "batch": 8, "group": 8, "workers": 1}
    )
    found = reading("rl", config, {}, output).visits(origin, 100)
    assert 5 <= len(found) <= 20  # one prompt per step, of 9 to 13


def test_a_recipe_without_a_reward_model_cannot_learn_from_them() -> None:
    given = Rl(RlConfig(rankings=True)).needs()
    assert any(need.required and need.stages == ("reward",) for need in given)
    assert not any(need.required and need.stages == ("reward",) for need in Rl(RlConfig()).needs())
