"""The learner's side of the rl stage: its arrays, loss and batches. Rollout workers: `test_worker.py`."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from headwater.llm.examples.tasks import Task
from headwater.llm.inference import Completion
from headwater.llm.model.critic import logits_and_values, with_value_head
from headwater.llm.rl.batches import RolloutBatches, total_reward
from headwater.llm.rl.config import RlConfig
from headwater.llm.rl.losses import LOSSES, Policy
from headwater.llm.rl.rollouts.sampler import Sampler
from headwater.llm.rl.rollouts.worker import Rollouts, WeightBoard, learner_arrays
from headwater.llm.training.job import Worker
from tests.llm.actors import Handle
from tests.llm.models import small_engine, small_model
from tests.llm.rl.rollouts.test_worker import TASKS, logprobs_of
from tests.llm.rl.rollouts.test_worker import in_this_process as in_this_process  # the fixture


def rollouts(rewards: list[float], verified: list[float] | None = None) -> Rollouts:
    """One answer of one or two tokens for each reward."""
    count = len(rewards)
    completions = [Completion([40 + n] * (1 + n % 2), [-1.0 - n] * (1 + n % 2), "stop") for n in range(count)]
    return Rollouts(
        prompts=[[10, 11, 12][: 2 + n // 2 % 2] for n in range(count)],
        completions=completions,
        reference_logprobs=[[-2.0 - n] * len(c.ids) for n, c in enumerate(completions)],
        answers=["" for _ in rewards],
        model_rewards=np.array(rewards),
        verified=np.array(verified or [0.0] * count),
    )


def test_the_learner_is_given_the_answers_tokens_alone_to_learn() -> None:
    made = learner_arrays(rollouts([0.0] * 4), np.array([0.5, -0.5, 1.0, 2.0]), pad_id=7)
    assert made["ids"].tolist() == [
        [10, 11, 40, 7, 7],
        [10, 11, 41, 41, 7],
        [10, 11, 12, 42, 7],
        [10, 11, 12, 43, 43],
    ]
    assert made["mask"].tolist() == [[0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    assert made["old_logprobs"].tolist()[1] == [0, 0, -2, -2, 0]
    assert made["reference_logprobs"].tolist()[3] == [0, 0, 0, -5, -5]
    assert made["advantages"].tolist() == [0.5, -0.5, 1.0, 2.0]


def test_the_policy_loss_is_the_surrogate_plus_the_weighted_kl_over_answer_tokens() -> None:
    prompt, answer, kl = [10, 11, 12], [40, 41], 0.3
    policy, reference = (logprobs_of(small_model(seed), prompt, answer, 0.7) for seed in (0, 1))
    old = policy - np.log(1.1)  # within the clip
    made = Rollouts(
        [prompt], [Completion(answer, old.tolist(), "stop")], [reference.tolist()], [""], *[np.ones(1)] * 2
    )
    arrays = learner_arrays(made, np.array([2.0]), pad_id=7)
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    objective = Policy(clip=0.2, kl=kl, temperature=0.7)
    loss, more = objective.loss_sum(small_model(), batch)
    k3 = np.exp(reference - policy) - (reference - policy) - 1
    assert k3.sum() > 0.1
    assert float(loss.detach()) == pytest.approx(-1.1 * 2.0 * 2 + kl * k3.sum(), rel=1e-4)
    assert float(more["kl"]) == pytest.approx(k3.sum(), rel=1e-4)
    assert float(more["rollout_mismatch"]) == pytest.approx(2 * np.log(1.1), rel=1e-3)
    assert objective.weight(batch) == 2


def test_a_prompt_of_tiny_probability_leaves_loss_and_gradient_finite() -> None:
    prompt, answer, temperature = [10, 11, 12], [40, 41], 0.01
    (given,) = small_engine().score([prompt], [answer], temperature=temperature)
    assert logprobs_of(small_model(), prompt[:1], prompt[1:], temperature).min() < -88  # exp(88) is infinite
    made = Rollouts([prompt], [Completion(answer, given, "stop")], [given], [""], *[np.ones(1)] * 2)
    batch = {
        name: torch.from_numpy(array) for name, array in learner_arrays(made, np.array([1.0]), 7).items()
    }
    model = copy.deepcopy(small_model())
    loss, more = Policy(clip=0.2, kl=0.3, temperature=temperature).loss_sum(model, batch)
    loss.backward()
    assert all(torch.isfinite(value) for value in (loss, *more.values()))
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_an_answer_that_was_not_judged_has_nothing_to_learn() -> None:
    made = learner_arrays(rollouts([0.0] * 2, [1.0, np.nan]), np.array([0.5, 0.0]), pad_id=7)
    assert made["mask"].tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]
    for normalise, weight in (("tokens", 1), ("sequences", 1), ("constant", 6)):
        objective = Policy(normalise=normalise, max_tokens=6)  # type: ignore[arg-type]
        assert objective.weight({name: torch.from_numpy(array) for name, array in made.items()}) == weight


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("normalise", ["tokens", "sequences", "constant"])
def test_loss_and_gradient_do_not_depend_on_micro_batches_or_on_shared_prompts(
    loss: str, normalise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = small_engine()
    prompts, answers = [[11, 12, 13, 14]] * 3 + [[21, 22]], [[40, 41, 42], [43], [44, 45], [46, 47]]
    given = [[lp - 0.1 * n for lp in logprobs] for n, logprobs in enumerate(engine.score(prompts, answers))]
    completions = [Completion(ids, old, "stop") for ids, old in zip(answers, given, strict=True)]
    reference = small_engine(1).score(prompts, answers)
    made = Rollouts(prompts, completions, reference, [""] * 4, np.ones(4), np.array([1.0, 0, 1, np.nan]))
    arrays = learner_arrays(made, np.array([1.0, -2.0, 0.5, 0.0]), 7)
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    objective = Policy(loss, clip=0.05, clip_high=0.1, kl=0.3, normalise=normalise, max_tokens=6)
    model = copy.deepcopy(small_model()).double()

    def found(parts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        total, weight = torch.zeros(()), 0.0
        for rows in parts:
            micro = {name: tensor[rows] for name, tensor in batch.items()}
            total = total + objective.loss_sum(model, micro)[0]
            weight += objective.weight(micro)
        (total / weight).backward()
        return (total / weight).detach(), torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]

    whole = found([[0, 1, 2], [3]])  # a group is read with its prompt once
    for parts in ([[0], [1], [2], [3]], [[0, 3], [1, 2]], [[0, 1, 2, 3]]):
        for one, other in zip(found(parts), whole, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_values_are_those_of_what_comes_before_a_token_and_the_logits_stay() -> None:
    model: Any = with_value_head(copy.deepcopy(small_model()))
    torch.nn.init.normal_(model.value_head.weight, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[10, 11, 12, 40, 41]])
    with torch.no_grad():
        logits, values = logits_and_values(model, ids)
        for place in range(1, 5):
            hidden = model.model(input_ids=ids[:, :place]).last_hidden_state[:, -1]
            expected = (hidden @ model.value_head.weight.T)[:, 0]
            torch.testing.assert_close(values[:, place - 1], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits, small_model()(input_ids=ids[:, :-1]).logits)


class Given:
    """A rollout worker that answers with what it was given, and remembers what it was asked."""

    def __init__(self, *rewards: list[float]) -> None:
        self.rewards, self.asked = list(rewards), []

    def rollout(
        self,
        tasks: list[Task],
        group: int,
        seed: int,
        version: int,
        places: list[int],
        *seconds: Any,
        compare: bool = True,
    ) -> Rollouts:
        self.asked.append(([task.origin for task in tasks], group, seed, version, places))
        return rollouts(self.rewards.pop(0))


def opened(*given: Given, board: Any = None, **settings: Any) -> RolloutBatches:
    """The batches of one learner with a small model, two groups of two a step."""
    config = RlConfig(**({"batch": 4, "group": 2} | settings))
    workers = [Handle(each) for each in given]
    sampler = Sampler(config, TASKS, board or Handle(WeightBoard()), workers)
    source = RolloutBatches(config, TASKS, TASKS[:2], sampler, 7)
    engine = SimpleNamespace(module=small_model(), zero_optimization_stage=lambda: 0)
    source.open(Worker(0, 1, engine, torch.device("cpu")))
    return source


def test_advantages_compare_the_answers_to_one_prompt_with_each_other(in_this_process: None) -> None:
    batch = opened(Given([1.0, 1.0, 5.0, 7.0]), advantage="rloo").batch(0)
    assert batch["advantages"].tolist() == [0, 0, -2, 2]
    grpo = opened(Given([1.0, 1.0, 5.0, 7.0])).batch(0)["advantages"]
    np.testing.assert_allclose(grpo, [0, 0, -(2**-0.5), 2**-0.5], rtol=1e-3)


def test_a_reward_is_the_weighted_sum_of_the_models_and_the_verifiers() -> None:
    config = RlConfig(reward_model_weight=0.5, verifier_weight=3.0)
    np.testing.assert_array_equal(total_reward(rollouts([2.0, -4.0], [0.25, 1.0]), config), [1.75, 1.0])


def test_each_step_publishes_its_weights_and_asks_for_its_own_prompts(in_this_process: None) -> None:
    given, board = Given([0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]), WeightBoard()
    source = opened(given, board=Handle(board))
    source.batch(0)
    source.batch(1)
    prompts, groups, seeds, versions, places = zip(*given.asked, strict=True)
    assert sorted(prompts[0] + prompts[1]) == [task.origin for task in TASKS]  # an epoch
    assert source.describe(1) == prompts[1]
    assert (groups, versions, places) == ((2, 2), (0, 1), ([0, 1], [0, 1])) and seeds[0] != seeds[1]
    _, (changes,) = board.fetch(1)
    assert changes.whole.keys() == dict(small_model().named_parameters()).keys()
    resumed = Given([0, 1, 2, 3])
    opened(resumed).batch(1)
    assert resumed.asked == given.asked[1:2]


def test_the_prompts_of_a_learner_are_spread_over_all_rollout_workers(in_this_process: None) -> None:
    four = [Given([float(n), 0.0]) for n in range(4)]
    batch = opened(*four, batch=8, advantage="rloo").batch(0)
    asked = [each.asked[0] for each in four]
    assert [places for *_, places in asked] == [[0], [1], [2], [3]]
    assert len({seed for _, _, seed, _, _ in asked}) == 1
    assert batch["advantages"].tolist() == [0, 0, 1, -1, 2, -2, 3, -3]
    two = [Given([0.0] * 4), Given([0.0] * 4)]
    opened(*two, batch=8).batch(0)
    assert [each.asked[0][4] for each in two] == [[0, 1], [2, 3]]
    assert [origin for each in two for origin in each.asked[0][0]] == [each[0][0] for each in asked]


def test_a_rollout_batch_is_sampled_once_for_its_mini_batches_and_epochs(in_this_process: None) -> None:
    given = Given(*[[0.0, 1.0] * 4] * 2)
    source = opened(given, mini_batches=2, epochs=3)
    batches = [source.batch(step) for step in range(7)]
    assert [(version, places) for *_, version, places in given.asked] == [
        (0, [0, 1, 2, 3]),
        (6, [0, 1, 2, 3]),
    ]
    assert batches[0]["ids"].shape[0] == 4
    for step in range(6):
        assert batches[step] is batches[step % 2]
        assert source.describe(step) == given.asked[0][0][2 * (step % 2) :][:2]
    assert [source.config.resumable(step) for step in range(7)] == [True, *[False] * 5, True]
    resumed = Given([0.0, 1.0] * 4)
    opened(resumed, mini_batches=2, epochs=3).batch(6)
    assert resumed.asked == given.asked[1:]


def test_an_answer_that_was_not_judged_is_counted_and_takes_no_part(in_this_process: None) -> None:
    class Failing(Given):
        def rollout(self, *asked: Any) -> Rollouts:
            made = super().rollout(*asked)
            made.verified[1], made.failures = np.nan, ["mine.py:f: KeyError: 'x'"]
            return made

    said: list[str] = []
    source = opened(Failing([1.0, 100.0, 5.0, 7.0]), advantage="rloo")
    source.worker.say = said.append
    batch = source.batch(0)
    assert batch["advantages"].tolist() == [0, 0, -2, 2]
    assert batch["mask"].any(axis=1).tolist() == [True, False, True, True]
    assert source.metrics()["not_judged"] == 1
    assert source.metrics()["reward"] == pytest.approx((1 + 5 + 7) / 3)
    assert said == ["1 answers were not judged: mine.py:f: KeyError: 'x'"]


def test_k1_is_subtracted_from_the_reward(in_this_process: None) -> None:
    batch = opened(Given([1.0, 1.0, 5.0, 7.0]), advantage="dr_grpo", kl=0.5, kl_estimator="k1").batch(0)
    # Answers of one and two tokens in turn, each a nat likelier than under the reference.
    rewards = np.array([[1, 1], [5, 7]]) - 0.5 * np.array([[1, 2], [1, 2]])
    expected = rewards - rewards.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(batch["advantages"], expected.reshape(-1))
    assert RlConfig(kl_estimator="k1").objective().kl == 0


def test_the_record_has_the_means_over_answers(in_this_process: None) -> None:
    source = opened(Given([1.0, 2.0, 3.0, 6.0], [4.0, 0.0]), verifier_weight=0.0, reward_model_weight=2.0)
    source.batch(0)
    expected = {"reward": 6.0, "reward_model": 3.0, "verified": 0.0, "answer_tokens": 1.5, "not_judged": 0.0}
    expected |= {"staleness": 0.0}
    found = source.metrics()
    assert 0 <= found.pop("rollout_wait") <= 1
    assert found == expected
    heldout = source.evaluate(source.worker)
    assert heldout["heldout_reward"] == 4.0 and heldout["heldout_reward_model"] == 2.0
