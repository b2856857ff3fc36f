"""Several answers to one prompt are read with it once, with the losses and gradients of each row alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import Qwen3ForSequenceClassification

from headwater.llm.model.cpu_kernels import use_kernels
from headwater.llm.training.losses.objectives import answer_logprobs
from headwater.llm.training.losses.shared_prompts import answer_losses, pair_rewards
from headwater.llm.training.losses.token_losses import token_losses
from tests.llm.models import small_model

PROMPT = [11, 12, 13, 14, 15]
PAD = 1


def rows(*answers: list[int], prompts: list[list[int]] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask [B, longest], padded on the right."""
    given = prompts or [PROMPT] * len(answers)
    width = max(len(p) + len(a) for p, a in zip(given, answers, strict=True))
    ids, mask = torch.full((len(answers), width), PAD), torch.zeros(len(answers), width)
    for row, (prompt, answer) in enumerate(zip(given, answers, strict=True)):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        mask[row, len(prompt) : len(prompt) + len(answer)] = 1
    return ids, mask


CASES = {
    "group": rows([20, 21, 22], [20, 30], [40], [20, 21, 22]),
    "one token each": rows([20], [21]),
    "same beginning": rows([20, 21], [20, 22]),
    "one row": rows([20, 21]),
    "other prompts": rows([20, 21], [22], prompts=[PROMPT, [9, 8]]),
    "a template in common": rows([20, 21], [22], prompts=[PROMPT, [*PROMPT[:2], 9, 8]]),
    "two groups": rows(
        [20, 21, 22], [20], [30, 31], [40], prompts=[PROMPT, PROMPT, [*PROMPT[:2], 9], [*PROMPT[:2], 9]]
    ),
    "groups of one token": rows([20], [21], [22], [23], prompts=[PROMPT, [9], [9], PROMPT]),
}
GROUPS, LEARNT = CASES["two groups"]
CASES["one not judged"] = (GROUPS, LEARNT * torch.tensor([[1], [1], [0], [1]]))
CASES["none judged"] = (GROUPS, LEARNT * 0)
CASES["one group judged"] = (GROUPS, LEARNT * torch.tensor([[1], [1], [0], [0]]))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kernels", [False, True])
def test_losses_and_gradients_are_those_of_the_rows_alone(
    case: str, temperature: float, kernels: bool
) -> None:
    ids, mask = CASES[case]
    found = []
    for function in (plain, answer_losses):
        model: Any = copy.deepcopy(small_model())
        if kernels:
            use_kernels(model)
        losses = function(model, ids, mask, temperature=temperature) * mask[:, 1:]
        (losses * torch.linspace(-1, 2, losses.numel()).view_as(losses)).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((losses.detach(), gradient))
    torch.testing.assert_close(found[1][0], found[0][0], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(found[1][1], found[0][1], atol=2e-3, rtol=1e-3)


def plain(model: Any, ids: torch.Tensor, mask: torch.Tensor, *, temperature: float) -> torch.Tensor:
    return torch.cat([token_losses(model, row[None], temperature=temperature) for row in ids])


@pytest.mark.parametrize(
    ("case", "kernels", "tokens"),
    [
        ("group", False, 5 + 4 * 2),
        ("group", True, 5 + 2 + 1 + 0 + 2),
        ("a template in common", False, 2 * 6),
        ("a template in common", True, 2 * 6),
        ("two groups", False, 4 * 7),
        ("two groups", True, 5 + 2 + 0 + 3 + 1 + 0),
        ("one not judged", True, 4 * 7),
        ("one group judged", True, 5 + 2 + 0),
    ],
)
def test_a_prompt_is_read_once_and_a_template_with_each_row(case: str, kernels: bool, tokens: int) -> None:
    model: Any = copy.deepcopy(small_model())
    if kernels:
        use_kernels(model)
    read: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    answer_losses(model, *CASES[case])
    assert read == [tokens]


PAIRS = {
    "a prompt": ([11, 12, 13, 20, 21, 22], [11, 12, 13, 30], 3 + 3 + 1),
    "answers that begin alike": ([11, 12, 20, 21], [11, 12, 20, 22, 23], 3 + 1 + 2),
    "one answer goes on": ([11, 12, 20], [11, 12, 20, 21], 2 + 1 + 2),
    "nothing in common": ([11, 12], [13, 12, 14], 2 + 3),
}


def test_a_pair_reads_what_it_has_in_common_once_with_the_rewards_and_gradients_of_each_alone() -> None:
    sides = [rows(*(pair[side] for pair in PAIRS.values()), prompts=[[]] * len(PAIRS)) for side in (0, 1)]
    batch: Any = {}
    for name, (ids, mask) in zip(("chosen", "rejected"), sides, strict=True):
        batch |= {name: ids, f"{name}_mask": mask}
    found, read = [], []
    for kernels in (False, True):
        torch.manual_seed(0)
        model: Any = Qwen3ForSequenceClassification(judge_config())
        if kernels:
            use_kernels(model)
        model.register_forward_pre_hook(
            lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        chosen, rejected = pair_rewards(model, batch)
        torch.nn.functional.logsigmoid(chosen - 2 * rejected).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        found.append((torch.cat([chosen, rejected]).detach(), gradient))
    assert read == [4 * 6, 4 * 5, sum(tokens for *_, tokens in PAIRS.values())]
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-4, rtol=1e-4)


def test_two_answers_are_compared_after_a_prompt_that_is_read_once() -> None:
    other = [*PROMPT[:2], 9]
    (ids, mask), model = rows([20, 21, 22], [30], [20], [31, 32], prompts=[PROMPT, other] * 2), small_model()
    kinds = {"chosen": ids[:2], "chosen_mask": mask[:2], "rejected": ids[2:], "rejected_mask": mask[2:]}
    alone = torch.stack(
        [
            -(plain(model, i[None], m[None], temperature=1.0) * m[1:]).sum()
            for i, m in zip(ids, mask, strict=True)
        ]
    )
    use_kernels(fast := copy.deepcopy(model))
    read: list[int] = []
    fast.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    torch.testing.assert_close(answer_logprobs(fast, kinds), alone, atol=2e-4, rtol=1e-4)
    assert read == [5 + 2 + 0 + 3 + 0 + 1], "nothing follows an answer's last token"


def judge_config() -> Any:
    config: Any = copy.deepcopy(small_model().config)
    config.num_labels, config.pad_token_id = 1, PAD
    return config
