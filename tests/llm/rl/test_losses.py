"""Advantages, policy losses and KL estimates, against their formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from headwater.llm.rl import kl
from headwater.llm.rl.advantages import ESTIMATORS, dr_grpo, gae, grpo, reinforce_pp, rloo, whitened
from headwater.llm.rl.losses import LOSSES, cispo, gspo, ppo_clip, value_clip

MASK = torch.ones(1, 3)


def test_grpo_divides_by_the_sample_deviation_and_equal_rewards_teach_nothing() -> None:
    rewards = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0]])
    advantages = grpo(rewards)
    deviation = math.sqrt(5 / 3)  # of 1, 2, 3, 4 with divisor 3
    np.testing.assert_allclose(advantages[0], (rewards[0] - 2.5) / (deviation + 1e-4))
    np.testing.assert_array_equal(advantages[1], 0)


def test_dr_grpo_is_the_reward_less_the_groups_mean() -> None:
    np.testing.assert_allclose(
        dr_grpo(np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 9.0]])), [[-2, -1, 3], [-3, -3, 6]]
    )


def test_rloo_compares_each_reward_with_the_mean_of_the_others() -> None:
    rewards = np.array([[1.0, 2.0, 6.0]])
    np.testing.assert_allclose(rloo(rewards), [[1 - 4, 2 - 3.5, 6 - 1.5]])


def test_reinforce_pp_has_one_scale_for_all_prompts() -> None:
    found = reinforce_pp(np.array([[1.0, 3.0], [10.0, 10.2]]))
    # centred: -1, 1, -0.1, 0.1, with mean 0 and sample deviation √(2.02 / 3)
    np.testing.assert_allclose(found, np.array([[-1, 1], [-0.1, 0.1]]) / (math.sqrt(2.02 / 3) + 1e-4))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_answer_that_was_not_judged_has_no_advantage_and_no_part_in_its_groups_baseline(name: str) -> None:
    rewards = np.array([[1.0, 2.0, 6.0, 100.0], [0.0, 3.0, 1.0, -50.0]])
    valid = np.array([[1, 1, 1, 0], [1, 1, 1, 0]])
    found = ESTIMATORS[name](rewards, valid)
    np.testing.assert_array_equal(found[:, 3], 0)
    np.testing.assert_allclose(found[:, :3], ESTIMATORS[name](rewards[:, :3], None))
    alone = ESTIMATORS[name](rewards[:1], np.array([[0, 1, 0, 0]]))
    np.testing.assert_array_equal(alone, 0)  # with nothing to compare with


def test_generalised_advantages_of_three_tokens() -> None:
    found = gae(np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.6, 0.7]), np.ones(3), gamma=0.99, lam=0.95)
    # δ = .99 × .6 - .5, .99 × .7 - .6, 1 - .7 = .094, .093, .3; A = δ + .9405 × the next A
    np.testing.assert_allclose(found, [0.446829, 0.375150, 0.3], atol=1e-6)


def test_generalised_advantages_pass_over_what_is_masked() -> None:
    mask = np.array([[0, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
    rewards, values = np.zeros((2, 5)), np.full((2, 5), 9.0)
    for row, place in ((0, 1), (1, 0)):
        rewards[row, place + 2], values[row, place : place + 3] = 1.0, (0.5, 0.6, 0.7)
    found = gae(rewards, values, mask, 0.99, 0.95)
    np.testing.assert_allclose(found[0], [0, 0.446829, 0.375150, 0.3, 0], atol=1e-6)
    np.testing.assert_allclose(found[1], [0.446829, 0.375150, 0.3, 0, 0], atol=1e-6)


def test_whitened_advantages_have_mean_zero_and_deviation_one_where_they_count() -> None:
    given, mask = np.array([[1.0, 4.0, 7.0], [100.0, 0.0, 8.0]]), np.array([[1, 1, 1], [0, 1, 1]])
    found = whitened(given, mask)
    counted = found[mask == 1]
    assert counted.mean() == pytest.approx(0) and counted.std(ddof=1) == pytest.approx(1, rel=1e-4)
    assert found[1, 0] == 0


def test_advantages_are_whitened_over_the_learners_that_hold_them() -> None:
    whole = np.array([1.0, 4.0, 7.0, -3.0])
    moments = [[9.0, 4.0], [float(((whole - 9 / 4) ** 2).sum())]]
    found = whitened(whole[:2], None, lambda own: moments[len(own) == 1])
    np.testing.assert_allclose(found, whitened(whole)[:2])


def loss_of(
    name: str, ratios: list[float], advantage: float, low: float = 0.2, high: float = 0.2
) -> list[float]:
    old = torch.tensor([[-1.0, -2.0, -3.0]])
    logprobs = old + torch.tensor([ratios]).log()
    found = LOSSES[name](logprobs, old, torch.tensor([[advantage]]), MASK, low, high)
    return found.loss[0].tolist()


def test_the_surrogate_stops_rewarding_a_ratio_beyond_the_clip() -> None:
    assert loss_of("ppo_clip", [0.5, 1.0, 1.5], 1.0) == pytest.approx([-0.5, -1.0, -1.2])
    assert loss_of("ppo_clip", [0.5, 1.0, 1.5], -1.0) == pytest.approx([0.8, 1.0, 1.5])


def test_a_higher_upper_clip_lets_unlikely_tokens_grow_further() -> None:
    assert loss_of("ppo_clip", [0.5, 1.25, 1.5], 1.0, 0.2, 0.28) == pytest.approx([-0.5, -1.25, -1.28])
    assert loss_of("ppo_clip", [0.5, 1.25, 1.5], -1.0, 0.2, 0.28) == pytest.approx([0.8, 1.25, 1.5])


def test_gspo_has_one_ratio_an_answer_the_geometric_mean_over_its_tokens() -> None:
    mean = (0.5 * 1.0 * 3.0) ** (1 / 3)  # 1.1447
    assert loss_of("gspo", [0.5, 1.0, 3.0], 2.0) == pytest.approx([-2 * mean] * 3)
    assert loss_of("gspo", [1.0, 1.0, 3.0], 2.0) == pytest.approx([-2 * 1.2] * 3)  # 3^(1/3) = 1.44
    half = gspo(
        torch.tensor([[0.3, 0.0]]), torch.zeros(1, 2), torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), 0.9, 0.9
    )
    assert float(half.loss[0, 0]) == pytest.approx(-math.exp(0.3))  # of one token


def test_cispo_bounds_a_tokens_weight_and_keeps_its_gradient() -> None:
    old = torch.tensor([[-1.0, -2.0, -3.0]])
    gradients = []
    for loss in (cispo, ppo_clip):
        logprobs = (old + torch.tensor([[0.5, 1.0, 3.0]]).log()).requires_grad_()
        loss(logprobs, old, torch.tensor([[2.0]]), MASK, 0.2, 0.28).loss.sum().backward()
        assert logprobs.grad is not None
        gradients.append(logprobs.grad[0].tolist())
    assert gradients[0] == pytest.approx([-0.8 * 2, -1.0 * 2, -1.28 * 2])
    assert gradients[1] == pytest.approx([-0.5 * 2, -1.0 * 2, 0.0])


def test_each_loss_says_where_it_clipped() -> None:
    for name in ("ppo_clip", "cispo"):
        found = LOSSES[name](
            torch.tensor([[1.5, 1.1, 0.7]]).log(), torch.zeros(1, 3), torch.ones(1, 1), MASK, 0.2, 0.3
        )
        assert found.clipped.tolist() == [[True, False, True]]


def test_a_value_far_from_the_old_one_has_the_larger_of_two_losses() -> None:
    values, old, returns = torch.tensor([1.0, 0.1, 0.9]), torch.zeros(3), torch.tensor([2.0, 2.0, 0.0])
    # near the old: .2, .1, .2 → errors 1.8, 1.9, .2 beside 1, 1.9, .9
    expected = [1.8**2 / 2, 1.9**2 / 2, 0.9**2 / 2]
    assert value_clip(values, old, returns, 0.2).tolist() == pytest.approx(expected)


@pytest.fixture(scope="module")
def two() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of a policy and of a reference over 50 tokens, and the exact KL divergence."""
    generator = torch.Generator().manual_seed(0)
    policy = torch.randn(50, generator=generator).double().log_softmax(0)
    reference = torch.randn(50, generator=generator).double().log_softmax(0)
    return policy, reference, (policy.exp() * (policy - reference)).sum()


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative(two: tuple[torch.Tensor, ...]) -> None:
    policy, reference, exact = two
    for estimate in (kl.k1, kl.k3):
        torch.testing.assert_close((policy.exp() * estimate(policy, reference)).sum(), exact)
    assert (kl.k3(policy, reference) >= 0).all() and (kl.k1(policy, reference) < 0).any()
    d = 0.5
    one = kl.k3(torch.tensor(-1.0), torch.tensor(-1.0 + d))
    assert float(one) == pytest.approx(math.exp(d) - d - 1)


def test_only_k2_as_a_loss_has_the_gradient_of_the_divergence(two: tuple[torch.Tensor, ...]) -> None:
    policy, reference, _ = two
    logits = policy.clone().requires_grad_()
    logprobs = logits.log_softmax(0)
    (wanted,) = torch.autograd.grad(
        (logprobs.exp() * (logprobs - reference)).sum(), logits, retain_graph=True
    )

    def gradient(estimate: object) -> torch.Tensor:
        weighted = (policy.exp() * estimate(logprobs, reference)).sum()  # type: ignore[operator]
        return torch.autograd.grad(weighted, logits, retain_graph=True)[0]

    torch.testing.assert_close(gradient(kl.k2), wanted)
    torch.testing.assert_close(gradient(kl.k1), torch.zeros(50).double())
    assert not torch.allclose(gradient(kl.k3), wanted)
