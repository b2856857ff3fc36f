"""Kept prefixes: prompts that begin as earlier sequences do are read from where they part."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from headwater.llm.inference.base import Completion, Limits, Sampling
from headwater.llm.inference.batching import Batch
from headwater.llm.inference.forward.prefixes import SHARED_TOKENS, Prefix, Prefixes
from headwater.llm.inference.shared import SharedEngine
from headwater.llm.inference.torch_engine import TorchEngine
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import small_model

BEGINNING = list(range(10, 10 + 120))
PROMPTS = [[*BEGINNING, 7, 8], [*BEGINNING, 9], [*BEGINNING[:60], 20, 21, 22], [*BEGINNING, 7, 8]]
SETTINGS = [Sampling(10, seed=1), Sampling(10, temperature=0), Sampling(10, 0.7, 0.9, seed=4)]
KEPT = Limits(prefixes=1 << 24)


def engine() -> TorchEngine:
    made = TorchEngine(copy.deepcopy(small_model()), chat_tokenizer())
    made.generate([[5]], Sampling(1))
    return made


def watched(made: TorchEngine) -> list[tuple[int, ...]]:
    read: list[tuple[int, ...]] = []
    made.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return read


def run(batch: Batch, prompt: list[int], sampling: Sampling) -> Completion:
    handle, found = batch.submit(prompt, sampling), Completion([], [], "length")
    while not batch.idle:
        for event in batch.step():
            assert event.handle == handle
            found.ids.append(event.id)
            found.logprobs.append(event.logprob)
    return found


@pytest.mark.parametrize("sampling", SETTINGS, ids=["sampled", "greedy", "top-p"])
def test_a_prompt_that_begins_as_an_earlier_one_gives_the_same_tokens_and_reads_the_rest(
    sampling: Sampling,
) -> None:
    made = engine()
    read = watched(made)
    without, kept = made.batch(Limits()), made.batch(KEPT)
    for number, prompt in enumerate(PROMPTS):
        wanted = run(without, prompt, sampling)
        read.clear()
        found = run(kept, prompt, sampling)
        assert read[0][1] == (122, 1, 3, 1)[number]
        assert found.ids == wanted.ids
        np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=2e-4)
    assert kept.prefixes.asked == sum(map(len, PROMPTS))
    assert kept.prefixes.found == 120 + 60 + 121


def test_the_next_turn_reads_what_its_prompt_adds_to_the_last_answer() -> None:
    made = engine()
    batch = made.batch(KEPT)
    first = run(batch, PROMPTS[0], Sampling(12, temperature=0))
    read = watched(made)
    following = [*PROMPTS[0], *first.ids, 40, 41, 42]
    again = run(batch, following, Sampling(6, temperature=0))
    assert read[0] == (1, 4)  # the last id of the answer was not read before
    assert again.ids == run(made.batch(), following, Sampling(6, temperature=0)).ids


@torch.inference_mode()
def test_what_is_kept_are_the_bits_that_were_read() -> None:
    made = engine()
    batch: Any = made.batch(KEPT)
    batch.submit(PROMPTS[0], Sampling(3, temperature=0))
    batch.step()
    held = [tensor[0, :, :122].clone() for tensor in (*batch._decoder.keys, *batch._decoder.values)]
    while not batch.idle:
        batch.step()
    batch.submit([*PROMPTS[0][:121], 99], Sampling(3, temperature=0))
    batch.step()
    for tensor, wanted in zip((*batch._decoder.keys, *batch._decoder.values), held, strict=True):
        assert torch.equal(tensor[0, :, :121], wanted[:, :121])


def test_a_short_beginning_and_a_model_without_slots_keep_nothing() -> None:
    made = engine()
    batch = made.batch(KEPT)
    run(batch, [5] * (SHARED_TOKENS - 1), Sampling(1))
    assert batch.prefixes.bytes == 0
    without = made.batch()
    run(without, BEGINNING, Sampling(4))
    assert without.prefixes.bytes == 0


def test_the_limit_of_bytes_holds_and_what_was_unused_for_longest_goes_first() -> None:
    made = engine()
    per_position = made.batch()._decoder.bytes_per_position
    batch = made.batch(Limits(prefixes=100 * per_position))
    prompts = [[20 * number + each for each in range(5, 25)] * 2 for number in range(3)]  # 40 ids
    for prompt in (prompts[0], prompts[1], prompts[0], prompts[2]):
        run(batch, prompt, Sampling(1))
        assert 0 < batch.prefixes.bytes <= 100 * per_position
    assert batch.prefixes.best(tuple(prompts[0]), 0)[0] == 40
    assert batch.prefixes.best(tuple(prompts[1]), 0)[0] == 0
    run(batch, BEGINNING, Sampling(1))  # longer than there is room for
    assert batch.prefixes.best(tuple(BEGINNING), 0)[0] == 100
    assert batch.prefixes.bytes == 100 * per_position


def test_a_longer_sequence_replaces_what_it_begins_with() -> None:
    kept = Prefixes(1000)
    kept.keep(Prefix((1, 2, 3), 0, [torch.zeros(1, 3, 4)]))
    kept.keep(Prefix((7, 8), 0, [torch.zeros(1, 2, 4)]))
    kept.keep(Prefix((1, 2, 3, 4), 0, [torch.zeros(1, 4, 4)]))
    assert kept.bytes == (2 + 4) * 16
    long = tuple(range(SHARED_TOKENS))
    kept.keep(Prefix(long, 0, [torch.zeros(1, len(long), 4)]))
    assert kept.covers(long, 0) and not kept.covers((*long, 5), 0) and kept.covers((1, 2, 9), 0)


def test_keys_of_older_weights_are_not_used() -> None:
    made, other = engine(), TorchEngine(copy.deepcopy(small_model(1)), chat_tokenizer())
    batch = made.batch(KEPT)
    run(batch, PROMPTS[0], Sampling(4, temperature=0))
    batch.submit(PROMPTS[1], Sampling(8, temperature=0))
    batch.step()  # begun under the old weights, ended under the new ones
    made.load_weights({name: p.detach().numpy().copy() for name, p in other.model.named_parameters()})
    while not batch.idle:
        batch.step()
    for prompt in PROMPTS[:2]:
        found = run(batch, prompt, Sampling(8, temperature=0))
        assert found.ids == other.generate([prompt], Sampling(8, temperature=0))[0].ids


def test_the_shared_engine_keeps_prefixes_unless_told_otherwise() -> None:
    made = engine()
    shared = SharedEngine(made)
    wanted = [made.generate([prompt], SETTINGS[0])[0].ids for prompt in PROMPTS]
    assert [[token.id for token in shared.stream(prompt, SETTINGS[0])] for prompt in PROMPTS] == wanted
    assert shared.prefix_tokens == (120 + 60 + 121, sum(map(len, PROMPTS)))
    none = SharedEngine(made, Limits())
    assert [token.id for token in none.stream(PROMPTS[0], SETTINGS[0])] == wanted[0]
    assert list(none.stream(PROMPTS[0], SETTINGS[0])) and none.prefix_tokens[0] == 0
