"""Truncated importance weights and masks of sequences, from their formulas."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from headwater.llm.rl.correction import beyond, truncated_weights
from headwater.llm.rl.losses import Policy
from headwater.llm.training.losses.objectives import masked_logprobs
from tests.llm.models import small_model

MASK = np.array([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
LEARNER = np.array([[9.0, -1.0, -1.0], [0.0, -1.0, 5.0]])
RECORDED = np.array([[0.0, -1.0 - math.log(3), -1.0 + math.log(2)], [0.0, -1.5, 0.0]])


def test_a_weight_is_the_ratio_of_probabilities_up_to_the_cap() -> None:
    weights, cut = truncated_weights(LEARNER, RECORDED, MASK, cap=2.0)
    np.testing.assert_allclose(weights, [[1, 2, 0.5], [1, math.exp(0.5), 1]])
    assert cut.tolist() == [[0, 1, 0], [0, 0, 0]]


def test_an_answer_is_left_out_by_the_geometric_mean_of_its_ratios() -> None:
    # (3 × 1/2)^(1/2) = 1.22, and e^0.5 = 1.65
    assert beyond(LEARNER, RECORDED, MASK, 1.6).tolist() == [False, True]
    assert beyond(LEARNER, RECORDED, MASK, 1.2).tolist() == [True, True]
    assert beyond(RECORDED, LEARNER, MASK, 1.6).tolist() == [False, True], "too unlikely is as bad"
    assert beyond(LEARNER, RECORDED, MASK, 1.7).tolist() == [False, False]


def test_the_policy_loss_is_weighted_token_by_token_and_says_how_far_apart_they_are() -> None:
    ids = torch.tensor([[10, 11, 40, 41]])
    mask = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    model: Any = small_model()
    with torch.no_grad():
        single = [
            float(masked_logprobs(model, ids, torch.tensor([one])))
            for one in ([0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0])
        ]
    now = torch.tensor([[0.0, 0.0, *single]])
    batch = {
        "ids": ids,
        "mask": mask,
        "advantages": torch.tensor([3.0]),
        "reference_logprobs": now,
        "old_logprobs": now,
        "rollout_logprobs": now - torch.tensor([[0.0, 0.0, 0.1, -0.4]]),
        "importance": torch.tensor([[1.0, 1.0, 0.5, 2.0]]),
    }
    loss, told = Policy().loss_sum(model, batch)
    assert float(loss.detach()) == pytest.approx(-3.0 * (0.5 + 2.0), rel=1e-4)
    assert float(told["rollout_mismatch"]) == pytest.approx(0.5, abs=1e-4)
    assert float(told["rollout_mismatch_max"]) == pytest.approx(0.4, abs=1e-4)
    assert SimpleNamespace(**told).clipped == 0
