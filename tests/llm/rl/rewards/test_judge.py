"""Verifiers of a user's own file: what they score, and what happens when they raise, die or hang."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.plugins import read_plugin
from headwater.llm.examples.tasks import Task
from headwater.llm.inference import Completion
from headwater.llm.rl.config import RlConfig
from headwater.llm.rl.rewards.judge import Judge, Weighted
from headwater.llm.rl.rewards.made_tasks import made_tasks
from headwater.llm.stages.rl import Rl

MINE = """
import os, time

def brief(answer, completion, task):
    print("seen:", answer)
    return 1 / (1 + len(answer.split()))

def moody(answer, completion, task):
    if answer == "raise":
        raise KeyError("no such\\nanswer")
    if answer == "die":
        os._exit(3)
    if answer == "hang":
        while True:
            time.sleep(1)
    if answer == "nan":
        return float("nan")
    return float(answer == task.reference) + len(completion.ids)

class Counting:
    def __init__(self):
        self.asked = 0

    def __call__(self, answer, completion, task):
        self.asked += 1
        return self.asked

def problems():
    for number in range(40):
        yield f"Say {number}.", str(number)

def wrong():
    yield "a", "b"
    yield "a", 7

wish = brief
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def judged(judge: Judge, *answers: str) -> tuple[list[float], list[str]]:
    completions = [Completion([5, 6], [-0.5, -0.5], "stop") for _ in answers]
    found = judge.judge(answers, completions, [Task("t", [], "right")] * len(answers))
    return found.verified.tolist(), found.failures


def test_a_function_of_a_file_scores_answers_in_another_process(mine: Path) -> None:
    judge = Judge([Weighted("mine.py:brief", 1.0, read_plugin("mine.py:brief", "rl.verifier"))], 60)
    (mine / "mine.py").unlink()  # the workers need its text alone
    assert judged(judge, "one", "one two three") == ([0.5, 0.25], [])


def test_an_object_of_a_class_is_kept_from_answer_to_answer(mine: Path) -> None:
    judge = Judge([Weighted("mine.py:Counting", 1.0, read_plugin("mine.py:Counting", "rl.verifier"))], 60)
    assert judged(judge, "a", "b", "c")[0] == [1, 2, 3]


def test_a_verifier_that_fails_has_not_judged_the_answer_and_judges_the_next(mine: Path) -> None:
    judge = Judge([Weighted("mine.py:moody", 1.0, read_plugin("mine.py:moody", "rl.verifier"))], 2.0)
    verified, failures = judged(judge, "right", "raise", "right", "die", "wrong", "hang", "nan", "right")
    np.testing.assert_array_equal(verified, [3, np.nan, 3, np.nan, 2, np.nan, np.nan, 3])
    assert failures == [
        "mine.py:moody: KeyError: 'no such\\nanswer'",
        "mine.py:moody: its process ended with 3",
        "mine.py:moody: no score after 2 s",
        "mine.py:moody: ValueError: returned nan",
    ]


def test_a_process_that_hung_is_gone(mine: Path) -> None:
    judge = Judge([Weighted("mine.py:moody", 1.0, read_plugin("mine.py:moody", "rl.verifier"))], 1.0)
    assert judged(judge, "right")[0] == [3]
    process = judge._ask["mine.py:moody"]._process  # type: ignore[union-attr]
    judged(judge, "hang")
    assert process is not None and process.returncode == -9
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_a_mixture_is_the_weighted_mean_and_lacks_what_one_of_its_verifiers_lacks(mine: Path) -> None:
    moody = Weighted("mine.py:moody", 1.0, read_plugin("mine.py:moody", "rl.rewards"))
    judge = Judge([Weighted("exact", 3.0), moody], 60)
    assert judged(judge, "right", "raise", "wrong") == (
        [pytest.approx((3 * 1 + 3) / 4), pytest.approx(np.nan, nan_ok=True), pytest.approx(2 / 4)],
        ["mine.py:moody: KeyError: 'no such\\nanswer'"],
    )


def test_no_verifier_is_asked_about_a_task_that_it_cannot_judge(mine: Path) -> None:
    judge = Judge([Weighted("mine.py:moody", 1.0, read_plugin("mine.py:moody", "rl.rewards"))], 60)
    tasks = [Task("t", [], "right"), Task("rankings/1.json", [], verifiable=False)]
    found = judge.judge(["right", "raise"], [Completion([5], [-0.5], "stop")] * 2, tasks)
    assert (found.verified.tolist(), found.failures) == ([2, 0], [])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none.py:f", r"rl\.verifier: none\.py:f: cannot read the file none\.py"),
        ("mine.py:absent", r"mine\.py defines no `absent` .*name what it defines: brief, moody"),
        ("broken.py:f", r"broken\.py is not Python: line 2"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_refused_with_file_and_function(
    mine: Path, name: str, told: str
) -> None:
    (mine / "broken.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(HeadwaterError, match=told):
        Rl(RlConfig(verifier=name)).check()


def test_the_content_of_a_plugin_is_part_of_the_stages_key(mine: Path) -> None:
    stage, session = Rl(RlConfig(rewards={"mine.py:wish": 1.0, "exact": 2.0})), None
    stage.check()
    before = stage.fingerprint(session)  # type: ignore[arg-type]
    assert stage.fingerprint(session) == before  # type: ignore[arg-type]
    (mine / "mine.py").write_text(MINE + "\n# changed\n")
    assert stage.fingerprint(session) != before  # type: ignore[arg-type]


def test_a_task_of_ones_own_gives_prompts_with_references(mine: Path) -> None:
    stage = Rl(RlConfig(task="mine.py:problems", verifier="exact"))
    stage.check()
    assert all("clean" not in need.stages for need in stage.needs())
    tasks = made_tasks("mine.py:problems")
    both = tasks["train"] + tasks["heldout"]
    assert len(both) == 40 and len(tasks["train"]) > 20 and tasks["heldout"]
    assert {task.prompt[0]["content"]: task.reference for task in both}["Say 7."] == "7"
    assert made_tasks("mine.py:problems") == tasks


def test_a_task_that_yields_something_else_is_named(mine: Path) -> None:
    with pytest.raises(HeadwaterError, match=r"rl\.task: mine\.py:wrong: .*TypeError: yielded 'a', 7"):
        made_tasks("mine.py:wrong")


def test_arithmetic_has_right_answers_and_the_number_verifier() -> None:
    task = made_tasks("arithmetic")["train"][0]
    first, second = task.prompt[0]["content"].removeprefix("What is ").removesuffix("?").split(" + ")
    assert int(first) + int(second) == int(task.reference)
    assert RlConfig(task="arithmetic").verifiers() == {"number": 1.0}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"verifier": "exact", "rewards": {"number": 1.0}}, "both score the answers"),
        ({"task": "arithmetic", "prompts": "a.jsonl"}, "both give the prompts"),
        ({"verifier": "exakt"}, r"no exakt: one of headline, number.* or FILE\.py:FUNCTION"),
        ({"task": "sums"}, "no sums: one of arithmetic"),
        ({"rewards": {"exakt": 1.0}}, "no exakt"),
        ({"rankings": True, "reward_model_weight": 0}, "only a reward model can score answers"),
        ({"rankings": True, "task": "search"}, "prompts of one turn"),
        ({"advantage": "gae", "lora": {}}, "value head, for which `lora`"),
        ({"advantage": "gae", "zero": {"stage": 3}}, "value head, for which `lora`"),
        ({"epochs": 3, "keep_best": True}, "multiple of `epochs` × `mini_batches`"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RlConfig.model_validate(settings)


def test_learners_on_gpus_whose_answers_are_sampled_on_cpus_are_mentioned() -> None:
    assert "sampled on CPUs" in RlConfig(gpus_per_worker=1).note_on_devices()
    assert RlConfig(gpus_per_worker=1, gpus_per_rollout_worker=0.5).note_on_devices() == ""
    assert RlConfig().note_on_devices() == ""
