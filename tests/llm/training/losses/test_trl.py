"""Losses and gradients equal TRL's on the same small model and batch (extra `parity`)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from headwater.llm.rl.losses import Policy
from headwater.llm.training.losses import preference_losses as losses
from headwater.llm.training.losses.objectives import PreferenceOptimisation, masked_logprobs
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import small_model

pytest.importorskip("trl", reason="TRL is not installed: pip install 'headwater[parity]'")
datasets = pytest.importorskip("datasets", reason="TRL needs datasets: pip install 'headwater[parity]'")

BETA = 0.3
PAIRS = [
    {"prompt": "Why does it rain?", "chosen": " Because of the clouds.", "rejected": " It never does."},
    {"prompt": "What is two and two?", "chosen": " Four.", "rejected": " Five, or perhaps six, who knows?"},
    {"prompt": "Say yes.", "chosen": " Yes, of course.", "rejected": " No."},
    {"prompt": "Where is the river?", "chosen": " Below the old bridge.", "rejected": " The river?"},
]
ARGUMENTS: dict[str, Any] = {
    "per_device_train_batch_size": len(PAIRS),
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": [],
    "dataloader_pin_memory": False,
}


def model() -> Any:
    return copy.deepcopy(small_model(seed=1))


@pytest.fixture
def reference() -> Any:
    return copy.deepcopy(small_model(seed=2)).eval()


def gradients(trained: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in trained.named_parameters() if p.grad is not None}


def agree(theirs: Any, theirs_loss: torch.Tensor, ours: Any, our_loss: torch.Tensor) -> None:
    """The losses of two copies of a model, and their gradients relative to the largest one."""
    known, found = theirs_loss.item(), our_loss.item()
    assert abs(known) > 1e-3 and found == pytest.approx(known, rel=1e-5)
    theirs_loss.backward()
    our_loss.backward()
    mine, wanted = gradients(ours), gradients(theirs)
    largest = max(float(each.abs().max()) for each in wanted.values())
    assert mine.keys() == wanted.keys() and largest > 1e-4
    apart = max(float((mine[name] - each).abs().max()) for name, each in wanted.items()) / largest
    print(f"loss {found:.7f}, apart by {abs(found - known) / abs(known):.1e}, gradient by {apart:.1e}")
    assert apart <= 1e-5


def moved(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}


def pairs_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our names for TRL's batch of chosen, then rejected answers."""
    ids, mask = batch["input_ids"].chunk(2), batch["completion_mask"].chunk(2)
    return {"chosen": ids[0], "rejected": ids[1], "chosen_mask": mask[0], "rejected_mask": mask[1]}


def scored(scorer: Any, batch: dict[str, torch.Tensor], *, mean: bool = False) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found = masked_logprobs(scorer, batch["input_ids"], batch["completion_mask"], mean=mean).chunk(2)
    return {"reference_chosen": found[0], "reference_rejected": found[1]}


def dpo_trainer(loss: str, reference: Any, folder: Path, **settings: Any) -> Any:
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(str(folder), **{"loss_type": [loss], "beta": BETA, **ARGUMENTS, **settings})
    return DPOTrainer(
        model(),
        reference,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(PAIRS),
        processing_class=chat_tokenizer(),
    )


def test_dpo(reference: Any, tmp_path: Path) -> None:
    trainer, ours = dpo_trainer("sigmoid", copy.deepcopy(reference), tmp_path), model()
    batch = moved(next(iter(trainer.get_train_dataloader())))
    loss, _ = PreferenceOptimisation(BETA).loss_sum(ours, pairs_of(batch) | scored(reference, batch))
    agree(trainer.model, trainer.compute_loss(trainer.model, batch), ours, loss / len(PAIRS))


def test_dpo_with_fine_tuning_on_the_chosen_answer(reference: Any, tmp_path: Path) -> None:
    """One pair: TRL averages over the tokens of a batch, we over those of each answer, as the paper does."""
    both = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.4], "per_device_train_batch_size": 1}
    trainer, ours = dpo_trainer("sigmoid", copy.deepcopy(reference), tmp_path, **both), model()
    batch = moved(next(iter(trainer.get_train_dataloader())))
    objective = PreferenceOptimisation(BETA, chosen_weight=0.4)
    loss, _ = objective.loss_sum(ours, pairs_of(batch) | scored(reference, batch))
    agree(trainer.model, trainer.compute_loss(trainer.model, batch), ours, loss)


def test_ipo_of_means(reference: Any, tmp_path: Path) -> None:
    """TRL divides log-ratios by the answers' lengths; the stage takes sums, as the paper writes them."""
    trainer, ours = dpo_trainer("ipo", copy.deepcopy(reference), tmp_path), model()
    batch = moved(next(iter(trainer.get_train_dataloader())))
    means = masked_logprobs(ours, batch["input_ids"], batch["completion_mask"], mean=True).chunk(2)
    loss = losses.ipo(*means, *scored(reference, batch, mean=True).values(), beta=BETA).mean()
    agree(trainer.model, trainer.compute_loss(trainer.model, batch), ours, loss)


def test_kto(reference: Any, tmp_path: Path) -> None:
    from trl import KTOConfig, KTOTrainer

    rows = [
        {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
        for pair in PAIRS
        for side in ("chosen", "rejected")
    ]
    trainer = KTOTrainer(
        model(),
        copy.deepcopy(reference),
        args=KTOConfig(str(tmp_path), beta=BETA, **(ARGUMENTS | {"per_device_train_batch_size": len(rows)})),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=chat_tokenizer(),
    )
    ours = model()
    batch = next(iter(trainer.get_train_dataloader()))
    answers, others = ((batch[f"{part}input_ids"], batch[f"{part}completion_mask"]) for part in ("", "KL_"))
    with torch.no_grad():
        known = masked_logprobs(reference, *answers)
        kl = (masked_logprobs(ours, *others) - masked_logprobs(reference, *others)).mean().clamp(min=0)
    desirable = torch.as_tensor(batch["label"]).bool()
    loss = losses.kto(masked_logprobs(ours, *answers), known, desirable, kl, beta=BETA).mean()
    agree(trainer.model, trainer.compute_loss(trainer.model, batch), ours, loss)


def old_trainer(kind: str, folder: Path, **settings: Any) -> Any:
    """A trainer of TRL's experimental part, which has its own names for batches."""
    import importlib

    module = importlib.import_module(f"trl.experimental.{kind}")
    name = kind.upper()
    config = getattr(module, f"{name}Config")(str(folder), **settings, **ARGUMENTS)
    return getattr(module, f"{name}Trainer")(
        model=model(),
        args=config,
        train_dataset=datasets.Dataset.from_list(PAIRS),
        processing_class=chat_tokenizer(),
    )


def old_pairs(trainer: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """TRL's batch, and ours of the same tokens: both sides of one width."""
    batch = next(iter(trainer.get_train_dataloader()))
    both = trainer.concatenated_inputs(batch, padding_value=int(chat_tokenizer().pad_token_id))
    ids, labels = both["concatenated_input_ids"].chunk(2), both["concatenated_labels"].chunk(2)
    masks = [(each != -100).to(torch.uint8) for each in labels]
    return batch, {"chosen": ids[0], "rejected": ids[1], "chosen_mask": masks[0], "rejected_mask": masks[1]}


def test_simpo(tmp_path: Path) -> None:
    trainer = old_trainer("cpo", tmp_path, loss_type="simpo", beta=2.0, simpo_gamma=0.7, cpo_alpha=0.0)
    batch, pairs = old_pairs(trainer)
    ours = model()
    loss, _ = PreferenceOptimisation(2.0, "simpo", gamma=0.7).loss_sum(ours, pairs)
    theirs, _ = trainer.get_batch_loss_metrics(trainer.model, batch)
    agree(trainer.model, theirs, ours, loss / len(PAIRS))


def test_orpo_of_answers(tmp_path: Path) -> None:
    """TRL's fine-tuning term includes the prompt; the paper's, and ours, is that of the answer alone."""
    trainer = old_trainer("orpo", tmp_path, beta=BETA)
    batch, pairs = old_pairs(trainer)
    ours = model()
    loss, _ = PreferenceOptimisation(BETA, "orpo").loss_sum(ours, pairs)
    chosen, rejected, *_ = trainer.concatenated_forward(trainer.model, batch)
    theirs = -chosen.mean() - trainer.odds_ratio_loss(chosen, rejected)[0].mean()
    agree(trainer.model, theirs, ours, loss / len(PAIRS))


POLICIES: dict[str, tuple[dict[str, Any], Callable[[], Policy]]] = {
    "grpo": (
        {"loss_type": "grpo", "epsilon": 0.2, "beta": 0.05, "use_bias_correction_kl": False},
        lambda: Policy("ppo_clip", clip=0.2, kl=0.05, normalise="sequences"),
    ),
    "dr_grpo": (
        {"loss_type": "dr_grpo", "epsilon": 0.1, "max_completion_length": 9},
        lambda: Policy("ppo_clip", clip=0.1, normalise="constant", max_tokens=9),
    ),
    "dapo": (
        {"loss_type": "bnpo", "epsilon": 0.2, "epsilon_high": 0.28},
        lambda: Policy("ppo_clip", clip=0.2, clip_high=0.28, normalise="tokens"),
    ),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-2, "epsilon_high": 4e-2},
        lambda: Policy("gspo", clip=3e-2, clip_high=4e-2, normalise="sequences"),
    ),
}


@pytest.mark.parametrize("name", POLICIES)
def test_policy_losses(name: str, tmp_path: Path) -> None:
    """On answers that other weights sampled, so that some ratios are clipped."""
    from trl import GRPOConfig, GRPOTrainer

    settings, objective = POLICIES[name]
    model().save_pretrained(tmp_path / "model")  # GRPOTrainer opens the reference by the model's name
    start = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    ours = copy.deepcopy(start)
    trainer = GRPOTrainer(
        start,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(str(tmp_path), **(ARGUMENTS | {"num_generations": 2} | settings)),
        train_dataset=datasets.Dataset.from_list([{"prompt": pair["prompt"]} for pair in PAIRS]),
        processing_class=chat_tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    draw = torch.Generator().manual_seed(0)
    prompts, answers = (torch.randint(10, 300, (4, n), generator=draw) for n in (6, 9))
    lengths = torch.tensor([9, 2, 5, 7])
    mask = (torch.arange(9) < lengths[:, None]).long()
    advantages = torch.tensor([1.2, -0.7, 1.4, 0.9])  # losses do not cancel
    ids, blank = torch.cat([prompts, answers], dim=1), torch.zeros(4, 6)
    whole = torch.cat([blank, mask], dim=1)
    with torch.no_grad():
        logprobs = -torch.nn.functional.cross_entropy(
            ours(input_ids=ids).logits[:, 5:-1].transpose(1, 2), answers, reduction="none"
        )
    old = logprobs + 0.2 * torch.randn(logprobs.shape, generator=draw)
    frozen = logprobs + 0.3 * torch.randn(logprobs.shape, generator=draw)
    batch = {
        "ids": ids,
        "mask": whole,
        "old_logprobs": torch.cat([blank, old * mask], dim=1),
        "reference_logprobs": torch.cat([blank, frozen * mask], dim=1),
        "advantages": advantages,
    }
    policy = objective()
    loss, told = policy.loss_sum(ours, batch)
    assert 0 < float(told["clipped"]) < policy.weight(batch)
    given = {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": answers,
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": frozen,
        "num_items_in_batch": mask.sum(),
    }
    agree(trainer.model, trainer.compute_loss(trainer.model, given), ours, loss / policy.weight(batch))
