"""Losses compared with independent formulas, and their invariances."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from headwater.llm.model.shape import flops_per_token, hf_config, parameter_count
from headwater.llm.training.config import TrainConfig
from headwater.llm.training.losses.objectives import NextToken
from headwater.llm.training.losses.preference_losses import bradley_terry
from headwater.llm.training.schedule import muon_momentum, share_of_peak, weight_decay
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import SMALL, small_model


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_parameters_of_other_families_are_counted_from_their_config(kind: str) -> None:
    sizes = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    for tied in (True, False):
        config = AutoConfig.for_model(kind, **sizes, **heads, tie_word_embeddings=tied)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        assert parameter_count(config) == sum(p.numel() for p in model.parameters())


def test_masked_positions_do_not_affect_the_loss() -> None:
    model = small_model()
    ids = torch.randint(5, 300, (2, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros_like(ids)
    mask[:, 9:] = 1
    changed = ids.clone()
    changed[:, 16] = 7  # the last token is a target only
    batch = {"ids": ids, "mask": mask}
    objective = NextToken()
    loss, _ = objective.loss_sum(model, batch)
    logprobs = model(input_ids=ids).logits.log_softmax(-1)[:, :-1]
    expected = -logprobs.gather(-1, ids[:, 1:, None])[..., 0][:, 8:].sum()
    torch.testing.assert_close(loss, expected)
    assert objective.weight(batch) == 16
    mask[:, 16] = 0
    before = objective.loss_sum(model, {"ids": ids, "mask": mask})[0]
    after = objective.loss_sum(model, {"ids": changed, "mask": mask})[0]
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("z_loss", [0.0, 1e-3])
def test_logits_are_computed_only_where_a_row_has_a_token_to_learn(z_loss: float) -> None:
    model, shapes = small_model(), []
    model.lm_head.register_forward_hook(lambda module, given, logits: shapes.append(tuple(logits.shape)))
    ids = torch.randint(5, 300, (2, 33), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros_like(ids)
    mask[0, 20:25] = mask[1, 30:] = 1

    def loss_and_gradient(sparse: bool) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        loss, _ = NextToken(z_loss, sparse=sparse).loss_sum(model, {"ids": ids, "mask": mask})
        loss.backward()
        return loss.detach(), model.lm_head.weight.grad.clone()

    few = loss_and_gradient(sparse=True)
    assert shapes[-1][:2] == (2, 5 + 3)
    whole = loss_and_gradient(sparse=False)
    assert shapes[-1][:2] == (2, 32)
    torch.testing.assert_close(few, whole)


def test_the_z_loss_draws_the_normaliser_towards_one() -> None:
    ids = torch.randint(5, 300, (2, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    plain, _ = NextToken().loss_sum(small_model(), {"ids": ids, "mask": mask})
    loss, more = NextToken(z_loss=1e-4).loss_sum(small_model(), {"ids": ids, "mask": mask})
    logits = small_model()(input_ids=ids).logits[:, :-1]
    normalisers = logits.exp().sum(-1).log()[mask[:, 1:] == 1]
    assert normalisers.numel() == 20
    torch.testing.assert_close(loss - plain, 1e-4 * normalisers.square().sum(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(more["z_loss"], loss - plain, rtol=1e-3, atol=1e-5)


def test_bradley_terry_of_a_known_pair() -> None:
    loss = bradley_terry(torch.tensor(1.5), torch.tensor(0.2))
    assert float(loss) == pytest.approx(0.241008, abs=1e-6)  # log(1 + e^-1.3)
    assert float(bradley_terry(torch.tensor(3.0), torch.tensor(3.0))) == pytest.approx(math.log(2))


def test_the_schedule_warms_up_stays_and_decays() -> None:
    def rate(step: int, shape: str) -> float:
        settings = {"steps": 100, "warmup_share": 0.1, "decay_share": 0.2, "final_share": 0.1}
        return share_of_peak(TrainConfig.model_validate(settings | {"schedule": shape}), step)

    assert [rate(s, "wsd") for s in (0, 9, 10, 79)] == pytest.approx([0.1, 1.0, 1.0, 1.0])
    assert rate(90, "wsd") == pytest.approx(0.5) and rate(99, "wsd") == pytest.approx(0.1)
    assert rate(99, "constant") == 1.0
    assert rate(55, "cosine") == pytest.approx(0.1 + 0.9 * 0.5, abs=1e-6)


def test_momentum_rises_and_falls_and_weight_decay_goes_to_zero() -> None:
    def at(step: int, own: dict[str, int], decay: str = "constant") -> tuple[float, float]:
        """Values of nanochat's and modded-nanogpt's schedules: 0.85 → 0.95 → 0.85."""
        settings = {"optimizer": "muon", "steps": 1000, "warmup_share": 0.1, "weight_decay": 0.2}
        settings |= {"muon_momentum_schedule": own, "weight_decay_schedule": decay}
        config = TrainConfig.model_validate(settings)
        return muon_momentum(config, step), weight_decay(config, step)

    both = {"warmup": 300, "cooldown": 50}
    found = [at(step, both)[0] for step in (0, 150, 300, 949, 975, 999)]
    assert found == pytest.approx([0.85, 0.90, 0.95, 0.95, 0.90, 0.852])
    assert at(999, {"warmup": 4000})[0] == pytest.approx(0.85 + 0.1 * 999 / 4000)  # ends before the rise
    assert [at(step, {"warmup": 0}, "linear")[1] for step in (0, 250, 999)] == pytest.approx(
        [0.2, 0.15, 0.0002]
    )
    assert [at(step, both, "learning_rate")[1] for step in (49, 500)] == pytest.approx([0.1, 0.2])
    with pytest.raises(ValueError, match=r"`muon_momentum_schedule` has no effect with `optimizer: adamw`"):
        TrainConfig.model_validate({"muon_momentum_schedule": {}})


def test_counted_parameters_are_the_models_own() -> None:
    config = hf_config(SMALL, 400, chat_tokenizer())
    assert parameter_count(config) == sum(p.numel() for p in small_model().parameters())
    # 6 per matrix parameter and 12 x layers x width x length for attention (PaLM, appendix B)
    norms = (2 * 64 + 2 * 64) * 2 + 64
    expected = 6 * (parameter_count(config) - norms) + 12 * 2 * 64 * 32
    assert flops_per_token(config, 32) == pytest.approx(expected, rel=0.01)
