"""Weight board and rollout worker of the rl stage. What the learner makes of rollouts: `test_batches.py`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch

from headwater.cluster.runtime.logs import Context
from headwater.llm.examples.chat import encode_prompt
from headwater.llm.examples.tasks import Task
from headwater.llm.inference import Sampling
from headwater.llm.model.adapters import Changes
from headwater.llm.rl.rewards import verifiers
from headwater.llm.rl.rewards.judge import Weighted
from headwater.llm.rl.rollouts.worker import Rollouts, RolloutWorker, WeightBoard
from tests.llm.actors import Handle, at_once
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import save_model, small_model
from tests.llm.training.parallel.test_sharding import small_reward_model

TASKS = [
    Task(f"d{number}", [{"role": "user", "content": f"Write headline {number}."}], "ref", article)
    for number, article in enumerate(["The council voted.", "It's raining.", "A planet was seen.", "Farmers"])
]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch.setattr)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`policy`, `reference` and `reward` of a rollout worker: three different models."""
    models = {"policy": small_model(1), "reference": small_model(), "reward": small_reward_model()}
    return {name: save_model(tmp_path_factory.mktemp(name), model) for name, model in models.items()}


@pytest.fixture
def worker(folders: dict[str, Any], in_this_process: None) -> RolloutWorker:
    return worker_of(folders)


def worker_of(folders: dict[str, Any], **more: Any) -> RolloutWorker:
    context: Any = SimpleNamespace(enter=lambda: None)  # the logging of this process stays as it is
    return RolloutWorker(
        **folders,
        verifiers=[Weighted("headline")],
        board=Handle(WeightBoard()),
        sampling=Sampling(6, 0.7),
        threads=torch.get_num_threads(),
        context=context,
        **more,
    )


def logprobs_of(model: Any, prompt: list[int], answer: list[int], temperature: float) -> np.ndarray:
    """[answer tokens] computed in one plain pass."""
    ids = torch.tensor([prompt + answer])
    with torch.no_grad():
        logprobs = (model(input_ids=ids).logits / temperature).log_softmax(-1)[0, :-1]
    return logprobs.gather(-1, ids[0, 1:, None])[-len(answer) :, 0].numpy()


def test_the_board_gives_out_what_is_there_and_refuses_what_is_not() -> None:
    board = WeightBoard()
    with pytest.raises(KeyError):
        board.fetch(1)
    board.publish(1, ["one"])
    board.publish(2, ["two"], 1)
    assert [board.fetch(1)[1], board.fetch(2)[1]] == [["one"], ["two"]]
    board.publish(4, ["four"], 2)
    with pytest.raises(KeyError):
        board.fetch(1)
    board.publish(2, ["again"], 2)  # another learner, from an earlier checkpoint on
    assert board.fetch(2) == (4, ["again"])
    with pytest.raises(KeyError):
        board.fetch(4)
    board.clear()
    with pytest.raises(KeyError):
        board.fetch(2)


def test_a_worker_answers_every_prompt_so_many_times_in_the_tasks_order(worker: RolloutWorker) -> None:
    made = worker.rollout(TASKS[:2], group=3, seed=5)
    prompts = [encode_prompt(chat_tokenizer(), task.prompt) for task in TASKS[:2]]
    assert made.prompts == [prompts[0]] * 3 + [prompts[1]] * 3
    assert len({tuple(completion.ids) for completion in made.completions}) > 3  # each draws by itself
    again, other = worker.rollout(TASKS[:2], 3, seed=5), worker.rollout(TASKS[:2], 3, seed=6)
    assert again.answers == made.answers != other.answers
    assert made.verified.tolist() == [
        verifiers.headline(answer, completion, task)
        for answer, completion, task in zip(
            made.answers, made.completions, [TASKS[0]] * 3 + [TASKS[1]] * 3, strict=True
        )
    ]


def test_an_answer_depends_on_its_tasks_place_and_not_on_what_else_a_worker_is_asked(
    worker: RolloutWorker,
) -> None:
    whole = worker.rollout(TASKS, 2, seed=5)
    parts = [worker.rollout(TASKS[1:2], 2, 5, None, [1]), worker.rollout(TASKS[2:], 2, 5, None, [2, 3])]
    assert Rollouts.joined(parts).answers == whole.answers[2:]
    # Sums over a batch of another size may differ in the last bit.
    np.testing.assert_allclose(Rollouts.joined(parts).model_rewards, whole.model_rewards[2:], rtol=1e-5)


def test_a_worker_reads_the_prompt_of_a_group_once(worker: RolloutWorker) -> None:
    read: list[tuple[int, ...]] = []
    worker.engine.batch()  # how the model is decoded is found at the first batch
    hook = worker.engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    worker.rollout(TASKS[:2], 4, seed=5)
    hook.remove()
    tokens = len(encode_prompt(chat_tokenizer(), TASKS[0].prompt))
    assert read[:3] == [(2, tokens), (6, 1), (8, 1)]  # the other samples read the last id alone


def test_a_worker_reports_the_log_probabilities_of_the_policy_and_of_the_reference(
    worker: RolloutWorker,
) -> None:
    made = worker.rollout(TASKS[:2], group=2, seed=0)
    for prompt, completion, given in zip(
        made.prompts, made.completions, made.reference_logprobs, strict=True
    ):
        for model, found in ((small_model(1), completion.logprobs), (small_model(), given)):
            expected = logprobs_of(model, prompt, completion.ids, 0.7)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    alone = worker.rollout(TASKS[:2], group=2, seed=0, compare=False)
    assert alone.completions == made.completions
    assert alone.reference_logprobs == [[0.0] * len(each.ids) for each in made.completions]


def test_a_worker_samples_and_compares_in_the_number_format_that_it_is_given(
    folders: dict[str, Any], in_this_process: None
) -> None:
    worker = worker_of(folders, precision="bf16")
    assert worker.engine.precision == worker.reference.precision == "bfloat16"
    made = worker.rollout(TASKS[:1], group=2, seed=0)
    both = (small_model(1), made.completions[0].logprobs), (small_model(), made.reference_logprobs[0])
    for model, found in both:
        exact = logprobs_of(model, made.prompts[0], made.completions[0].ids, 0.7)
        assert 1e-4 < np.abs(exact - found).max() < 0.3


def test_a_worker_reports_the_reward_models_score_of_prompt_and_answer(worker: RolloutWorker) -> None:
    made = worker.rollout(TASKS, group=5, seed=0)  # more than a batch of the reward model
    for number, (prompt, completion) in enumerate(zip(made.prompts, made.completions, strict=True)):
        with torch.no_grad():
            score = small_reward_model()(input_ids=torch.tensor([prompt + completion.ids])).logits
        assert made.model_rewards[number] == pytest.approx(score.item(), abs=1e-4)


def test_a_worker_fetches_the_weights_of_the_version_that_it_is_asked_for(worker: RolloutWorker) -> None:
    before = worker.rollout(TASKS[:1], 2, seed=0)
    weights = {name: parameter.detach().numpy() for name, parameter in small_model().named_parameters()}
    worker.board.publish.remote(3, [Changes(weights)])
    after = worker.rollout(TASKS[:1], 2, 0, 3)
    assert after.answers != before.answers
    for completion, given in zip(after.completions, after.reference_logprobs, strict=True):
        np.testing.assert_allclose(completion.logprobs, given, atol=1e-4)  # the reference is that model


def test_weights_reach_a_rollout_worker_through_ray(session: Any, folders: dict[str, Any]) -> None:
    board: Any = ray.remote(num_cpus=0)(WeightBoard).remote()
    worker = ray.remote(num_cpus=0)(RolloutWorker).remote(
        **folders, verifiers=[], board=board, sampling=Sampling(4), threads=1, context=Context("", "")
    )
    weights = {name: parameter.detach().numpy() for name, parameter in small_model().named_parameters()}
    ray.get(board.publish.remote(1, [ray.put(Changes(weights))]))
    made = ray.get(worker.rollout.remote(TASKS[:2], 2, 0, 1), timeout=120)
    for completion, given in zip(made.completions, made.reference_logprobs, strict=True):
        np.testing.assert_allclose(completion.logprobs, given, atol=1e-4)
    ray.kill(worker)
    ray.kill(board)
