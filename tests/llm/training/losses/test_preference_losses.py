"""Losses of pairs: golden values from the papers' formulas, invariances, and the objective that picks one.

The formulas are written out in `math` from the papers, as a reference that shares no code with the losses.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from headwater.llm.training.losses import preference_losses
from headwater.llm.training.losses.objectives import (
    REFERENCE_FREE,
    BradleyTerry,
    PairLoss,
    PreferenceOptimisation,
)
from headwater.llm.training.losses.preference_losses import bradley_terry, dpo, ipo, kto, orpo, simpo
from tests.llm.models import small_model

LOSSES: tuple[PairLoss, ...] = ("dpo", "ipo", "kto", "simpo", "orpo")


def one(value: float) -> torch.Tensor:
    return torch.tensor([value])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# Policy -10 and -12, reference -14 and -13: log-ratios 4 and 1, so h = 3
SUMS = (one(-10.0), one(-12.0), one(-14.0), one(-13.0))


def test_dpo_of_a_known_pair() -> None:
    assert float(dpo(*SUMS, beta=0.1)) == pytest.approx(0.554355, abs=1e-6)  # -log σ(0.3)
    smoothed = -0.8 * math.log(sigmoid(0.3)) - 0.2 * math.log(sigmoid(-0.3))
    assert float(dpo(*SUMS, beta=0.1, label_smoothing=0.2)) == pytest.approx(smoothed, abs=1e-6)


def test_ipo_of_a_known_pair() -> None:
    assert float(ipo(*SUMS, beta=0.1)) == pytest.approx(4.0, abs=1e-5)  # (3 - 1 / 0.2)²
    assert float(ipo(*SUMS, beta=1 / 6)) == pytest.approx(0.0, abs=1e-6)


def test_kto_of_known_answers() -> None:
    better, worse = torch.tensor([True]), torch.tensor([False])
    policy, reference, kl = one(-10.0), one(-14.0), one(1.5)  # log-ratio 4
    found = [float(kto(policy, reference, kind, kl, beta=0.1)) for kind in (better, worse)]
    assert found == pytest.approx([1 - sigmoid(0.25), 1 - sigmoid(-0.25)], abs=1e-6)


def test_simpo_of_a_known_pair() -> None:
    # 2 × (-0.5 + 1.25) - 1 = 0.5
    found = simpo(one(-0.5), one(-1.25), beta=2.0, gamma=1.0)
    assert float(found) == pytest.approx(-math.log(sigmoid(0.5)), abs=1e-6)


def test_orpo_of_a_known_pair() -> None:
    # p = 1/2 and 1/4: odds 1 and 1/3, so -log σ(log 3) = log(4/3); fine-tuning costs log 2
    found = orpo(one(math.log(0.5)), one(math.log(0.25)), beta=0.1)
    assert float(found) == pytest.approx(math.log(2) + 0.1 * math.log(4 / 3), abs=1e-6)
    certain = torch.tensor([0.0], requires_grad=True)
    orpo(certain, one(-1.0), beta=0.1).sum().backward()
    assert math.isfinite(float(certain.grad))  # type: ignore[arg-type]


def test_bradley_terry_with_a_margin_and_centred() -> None:
    found = bradley_terry(one(1.5), one(0.2), margin=0.3, centring=0.01)
    assert float(found) == pytest.approx(-math.log(sigmoid(1.0)) + 0.01 * 1.7**2, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_along_the_gradient_raises_the_better_answer_over_the_worse(loss: PairLoss) -> None:
    better, worse = torch.tensor([-1.0], requires_grad=True), torch.tensor([-1.0], requires_grad=True)
    batch = {"reference_chosen": one(-1.0), "reference_rejected": one(-1.0), "kl": one(0.0)}
    objective = PreferenceOptimisation(0.5, loss, gamma=0.5)
    objective._losses(better, worse, batch).sum().backward()
    assert float(better.grad) < 0 < float(worse.grad)  # type: ignore[arg-type]


def pairs(lengths: list[tuple[int, int, int]], width: int = 24) -> dict[str, torch.Tensor]:
    """Random pairs with (prompt, chosen, rejected) of these lengths, padded with token 3."""
    generator = torch.Generator().manual_seed(0)
    batch: dict[str, Any] = {}
    for side, place in (("chosen", 1), ("rejected", 2)):
        ids = torch.randint(5, 300, (len(lengths), width), generator=generator)
        at = torch.arange(width)
        begin = torch.tensor([row[0] for row in lengths])[:, None]
        end = begin + torch.tensor([row[place] for row in lengths])[:, None]
        batch[side] = torch.where(at < end, ids, 3)
        batch[f"{side}_mask"] = ((at >= begin) & (at < end)).to(torch.uint8)
        batch[f"reference_{side}"] = -40.0 - torch.rand(len(lengths), generator=generator) * 5
    return batch | {"kl": torch.full((len(lengths),), 0.7)}


BATCH = [(5, 4, 9), (3, 12, 2), (8, 6, 6), (4, 10, 15), (6, 1, 7)]


def gradients(loss: PairLoss, sizes: list[int]) -> dict[str, torch.Tensor]:
    """Of the mean loss of the batch, gathered over micro-batches of these sizes."""
    model, whole = copy.deepcopy(small_model()), pairs(BATCH)
    objective = PreferenceOptimisation(0.1, loss, gamma=0.5)
    start = 0
    for size in sizes:
        part = {name: values[start : start + size] for name, values in whole.items()}
        (objective.loss_sum(model, part)[0] / len(BATCH)).backward()
        start += size
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_do_not_depend_on_the_micro_batches(loss: PairLoss) -> None:
    whole = gradients(loss, [5])
    scale = max(float(values.abs().max()) for values in whole.values())
    for sizes in ([1, 1, 1, 1, 1], [2, 3]):
        for name, values in gradients(loss, sizes).items():
            torch.testing.assert_close(values, whole[name], rtol=0, atol=1e-6 * max(1.0, scale))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_objective_takes_means_where_the_paper_has_them_and_else_sums(loss: PairLoss) -> None:
    model, batch = small_model(), pairs(BATCH)
    logprobs: dict[str, list[float]] = {}
    for side in ("chosen", "rejected"):
        logprobs[side] = []
        for ids, mask in zip(batch[side], batch[f"{side}_mask"], strict=True):
            with torch.no_grad():
                each = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
            picked = each.gather(-1, ids[1:, None])[:, 0][mask[1:] == 1]
            logprobs[side].append(float(picked.mean() if loss in REFERENCE_FREE else picked.sum()))
    better, worse = (torch.tensor(logprobs[side]) for side in ("chosen", "rejected"))
    expected = PreferenceOptimisation(0.1, loss, gamma=0.5)._losses(better, worse, batch).sum()
    if loss in REFERENCE_FREE:
        batch = {name: values for name, values in batch.items() if "reference" not in name}
    found, more = PreferenceOptimisation(0.1, loss, gamma=0.5).loss_sum(model, batch)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-4)
    if loss not in REFERENCE_FREE:
        better, worse = better - batch["reference_chosen"], worse - batch["reference_rejected"]
    assert float(more["margin"]) == pytest.approx(float(0.1 * (better - worse).sum()), rel=1e-3, abs=1e-4)
    assert float(more["accuracy"]) == int((better > worse).sum())


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"orpo"}))
def test_fine_tuning_on_the_chosen_answers_is_added_per_token(loss: PairLoss) -> None:
    model, batch = small_model(), pairs(BATCH)
    plain, _ = PreferenceOptimisation(0.1, loss, gamma=0.5).loss_sum(model, batch)
    both, _ = PreferenceOptimisation(0.1, loss, gamma=0.5, chosen_weight=0.3).loss_sum(model, batch)
    per_token = 0.0
    for ids, mask in zip(batch["chosen"], batch["chosen_mask"], strict=True):
        logprobs = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        per_token -= float(logprobs.gather(-1, ids[1:, None])[:, 0][mask[1:] == 1].mean().detach())
    assert per_token > 1 and float((both - plain).detach()) == pytest.approx(0.3 * per_token, rel=1e-4)


def test_the_reward_models_objective_has_its_margin_and_centring() -> None:
    from tests.llm.training.parallel.test_sharding import small_reward_model

    model, batch = small_reward_model().eval(), pairs(BATCH)
    plain, more = BradleyTerry().loss_sum(model, batch)
    centred, _ = BradleyTerry(margin=0.5, centring=0.1).loss_sum(model, batch)
    assert abs(float(more["margin"])) > 0 and not torch.isclose(plain, centred)
    scores = [
        model(input_ids=batch[side], attention_mask=batch[f"{side}_mask"]).logits[:, 0]
        for side in ("chosen", "rejected")
    ]
    expected = preference_losses.bradley_terry(scores[0], scores[1], margin=0.5, centring=0.1).sum()
    torch.testing.assert_close(centred, expected, rtol=1e-4, atol=1e-5)
