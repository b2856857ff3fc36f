"""Continuous batching: a sequence does not depend on when it enters, on its neighbours or on old slots."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from headwater.cluster.errors import HeadwaterError
from headwater.llm.inference.base import Completion, Limits, Sampling
from headwater.llm.inference.batching import Batch
from headwater.llm.inference.forward.decoder import way_of
from headwater.llm.inference.forward.prefixes import SHARED_TOKENS
from headwater.llm.inference.next_token.sampling import sample, uniforms
from headwater.llm.inference.torch_engine import TorchEngine
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import small_model

PROMPTS = [[7, 8, 9], [20, 21, 22, 23, 24, 25, 26], [50], [60, 61], list(range(30, 70)), [7, 8, 9, 10]]
GREEDY = Sampling(max_tokens=12, temperature=0)


def engine(seed: int = 0, limits: Limits | None = None) -> TorchEngine:
    """An engine with weights of its own, whose way of decoding is known already."""
    made = TorchEngine(copy.deepcopy(small_model(seed)), chat_tokenizer(), limits)
    made.generate([[5]], Sampling(max_tokens=1))
    return made


def by_transformers(model: Any, prompt: list[int], tokens: int = 12) -> list[int]:
    """The most likely ids; past the end of a turn, too."""
    found = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=list(chat_stops()),
        pad_token_id=0,
    )
    return found[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


def chat_stops() -> tuple[int, ...]:
    from headwater.llm.examples.chat import stop_ids

    return stop_ids(chat_tokenizer())


def finish(
    batch: Batch, found: dict[int, Completion] | None = None, steps: int = 10_000
) -> dict[int, Completion]:
    """Run some steps. Returns what each handle has got."""
    found = {} if found is None else found
    while not batch.idle and steps:
        steps -= 1
        for event in batch.step():
            one = found.setdefault(event.handle, Completion([], [], "length"))
            one.ids.append(event.id)
            one.logprobs.append(event.logprob)
            one.finish_reason = event.finish_reason or one.finish_reason
    return found


def assert_same(one: Completion, other: Completion) -> None:
    assert (one.ids, one.finish_reason) == (other.ids, other.finish_reason)
    np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-4)


@pytest.mark.parametrize("watched", [False, True], ids=["own step", "transformers' forward"])
def test_greedy_ids_of_prompts_that_enter_at_different_times_are_those_of_transformers(watched: bool) -> None:
    made = engine()
    if watched:
        made.model.register_forward_hook(lambda *_: None)
    batch = made.batch(Limits(sequences=3, read_tokens=16))
    handles = {batch.submit(prompt, GREEDY): prompt for prompt in PROMPTS[:2]}
    found = finish(batch, steps=3)
    for prompt in PROMPTS[2:]:
        handles[batch.submit(prompt, GREEDY)] = prompt
        finish(batch, found, steps=2)
    finish(batch, found)
    for handle, prompt in handles.items():
        assert found[handle].ids == by_transformers(made.model, prompt)


SMALL = {
    "vocab_size": 448,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
FAMILIES: Mapping[str, tuple[Mapping[str, Any], bool, bool]] = {
    "llama": (SMALL, True, True),
    "qwen2": (SMALL, True, True),
    "mistral": (SMALL | {"sliding_window": 8}, True, False),
    "gemma2": (SMALL | {"sliding_window": 8}, True, False),
    "gpt2": ({"vocab_size": 448, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}, True, False),
    "bloom": ({"vocab_size": 448, "hidden_size": 64, "n_layer": 2, "n_head": 4}, False, False),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_transformers_ids_in_slots_or_apart(family: str) -> None:
    sizes, in_slots, lean = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes)).float().eval()
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.data.mul_(3)
    way = way_of(model)
    assert (way.layers is not None, way.lean) == (in_slots, lean)
    model.config.max_position_embeddings = 256
    made = TorchEngine(model, chat_tokenizer())
    found = made.generate(PROMPTS, Sampling(max_tokens=24, temperature=0))
    for prompt, completion in zip(PROMPTS, found, strict=True):
        assert completion.ids == by_transformers(model, prompt, 24)


def test_a_model_that_does_not_go_on_from_a_cache_is_refused() -> None:
    config = AutoConfig.for_model("mamba", vocab_size=448, hidden_size=64, num_hidden_layers=2, state_size=8)
    with pytest.raises(HeadwaterError, match="MambaForCausalLM does not go on from"):
        way_of(AutoModelForCausalLM.from_config(config).float().eval())


def test_a_sample_depends_on_its_seed_and_not_on_neighbours_or_the_order_of_entry() -> None:
    made = engine()
    sampling = Sampling(max_tokens=16)
    alone = {}
    for seed, prompt in enumerate(PROMPTS):
        batch = made.batch()
        handle = batch.submit(prompt, sampling, seed=seed)
        alone[seed] = finish(batch)[handle]
    for order, limits in (
        (range(len(PROMPTS)), Limits()),
        (reversed(range(len(PROMPTS))), Limits(sequences=2)),
        ([3, 0, 5, 1, 4, 2], Limits(sequences=4, read_tokens=3)),
    ):
        batch = made.batch(limits)
        handles = {seed: batch.submit(PROMPTS[seed], sampling, seed=seed) for seed in order}
        for greedy in PROMPTS[:2]:
            batch.submit(greedy, Sampling(max_tokens=5, temperature=0))
        found = finish(batch)
        for seed, handle in handles.items():
            assert_same(found[handle], alone[seed])
    assert len({tuple(one.ids) for one in alone.values()}) == len(PROMPTS)


@torch.inference_mode()
def test_each_token_is_drawn_with_a_number_of_its_own() -> None:
    made, sampling, prompt = engine(), Sampling(max_tokens=12), PROMPTS[0]
    numbers = uniforms(sampling, 7, 0)
    assert numbers is not None
    ids: list[int] = []
    for number in numbers:
        logits_1V = made.model(input_ids=torch.tensor([prompt + ids])).logits[:, -1]
        ids.append(int(sample(logits_1V.float(), 1.0, 1.0, torch.tensor([number]))[0]))
        if ids[-1] in chat_stops():
            break
    assert made.generate([prompt], sampling, [7])[0].ids == ids and len(ids) > 3


def tensors(batch: Batch) -> Iterable[torch.Tensor]:
    decoder: Any = batch._decoder
    return [*decoder.keys, *decoder.values]


@torch.inference_mode()
def test_a_freed_slot_leaves_nothing_to_the_next_sequence() -> None:
    made = engine()
    wanted = [made.generate([prompt], GREEDY)[0] for prompt in PROMPTS]
    batch = made.batch(Limits(sequences=3))
    found: dict[int, Completion] = {}
    handles, waiting = {}, list(enumerate(PROMPTS))
    freed = 0
    while waiting or not batch.idle:
        while waiting and len(batch._rows) + len(batch._waiting) < 3:
            number, prompt = waiting.pop()
            handles[batch.submit(prompt, Sampling(max_tokens=12, temperature=0))] = number
        finish(batch, found, steps=1)
        freed += 3 - len(batch._rows)
        for tensor in tensors(batch):
            tensor[len(batch._rows) : 3] = float("nan")
    assert freed and len(handles) == len(PROMPTS) > 3
    for handle, number in handles.items():
        assert_same(found[handle], wanted[number])


@torch.inference_mode()
def test_what_lies_behind_the_end_of_a_row_is_not_seen() -> None:
    made = engine()
    wanted = made.generate(PROMPTS, GREEDY)
    batch = made.batch(Limits(read_tokens=24))
    handles = [batch.submit(prompt, GREEDY) for prompt in PROMPTS]
    found: dict[int, Completion] = {}
    while not batch.idle:
        finish(batch, found, steps=1)
        for row, one in enumerate(batch._rows):
            for tensor in tensors(batch):
                tensor[row, :, one.length :] = 1e4
    for handle, completion in zip(handles, wanted, strict=True):
        assert_same(found[handle], completion)


def watched(made: TorchEngine) -> list[tuple[int, ...]]:
    """The shapes of ids that the model reads from now on."""
    read: list[tuple[int, ...]] = []
    made.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return read


def test_a_prompt_with_several_samples_is_read_once() -> None:
    made = engine()
    read = watched(made)
    sampling = Sampling(max_tokens=4)
    group = made.generate([PROMPTS[4]] * 5 + [PROMPTS[1]], sampling, seeds=range(6))
    assert read[:3] == [(1, 40), (1, 7), (4, 1)]  # the other samples read the last id alone
    for seed in (0, 4):
        assert_same(group[seed], made.generate([PROMPTS[4]], sampling, seeds=[seed])[0])
    assert len({tuple(one.ids) for one in group[:5]}) > 1


def test_what_prompts_begin_with_is_read_once_whenever_they_enter() -> None:
    made = engine()
    beginning = list(range(5, 5 + SHARED_TOKENS))
    prompts = [beginning + rest for rest in ([30], [40, 41, 42], [40, 50])]
    wanted = [made.generate([prompt], GREEDY)[0] for prompt in prompts]
    read = watched(made)
    batch = made.batch()
    handles = [batch.submit(prompt, GREEDY) for prompt in prompts[:2]]
    found = finish(batch, steps=3)
    handles.append(batch.submit(prompts[2], GREEDY))
    finish(batch, found)
    assert read[:2] == [(1, SHARED_TOKENS + 1), (1, 3)]
    assert read[2:6] == [(2, 1), (2, 1), (2, 1), (1, 1)]  # the second shares one more
    for handle, one in zip(handles, wanted, strict=True):
        assert_same(found[handle], one)
    longer = [beginning, [*beginning, 30]]  # one prompt is the beginning of another
    for prompt, one in zip(longer, made.generate(longer, GREEDY), strict=True):
        assert_same(one, made.generate([prompt], GREEDY)[0])


def test_a_cancelled_sequence_has_no_more_tokens_and_the_others_have_theirs() -> None:
    made = engine()
    wanted = made.generate(PROMPTS, GREEDY)
    batch = made.batch(Limits(sequences=4, read_tokens=8))
    handles = [batch.submit(prompt, GREEDY) for prompt in PROMPTS]
    found = finish(batch, steps=2)
    for cancelled in (0, 4, 5):  # one that runs, one whose prompt is being read, one that waits
        batch.cancel(handles[cancelled])
    before = {handle: len(one.ids) for handle, one in found.items()}
    finish(batch, found)
    for number, handle in enumerate(handles):
        if number in (0, 4, 5):
            assert handle not in found or len(found[handle].ids) == before[handle] < 12
        else:
            assert_same(found[handle], wanted[number])
    batch.cancel(handles[1])
    assert batch.idle and batch.step() == []


def test_the_limits_of_sequences_and_memory_hold_and_a_sequence_that_cannot_fit_is_refused() -> None:
    made = engine()
    per_position = made.batch()._decoder.bytes_per_position
    assert per_position == 2 * 2 * 64 * 4  # layers × keys and values × one head of 64 × fp32
    for limits, most in ((Limits(sequences=2), 2), (Limits(memory=3 * 64 * per_position), 3)):
        batch = made.batch(limits)
        for prompt in PROMPTS:
            batch.submit(prompt, GREEDY)
        tokens, crowd = 0, 0
        while not batch.idle:
            events = batch.step()
            tokens += len(events)
            crowd = max(crowd, len(batch._rows))
            assert all(tensor.shape[0] <= most for tensor in tensors(batch))
        assert crowd == most
        assert tokens == sum(len(one.ids) for one in made.generate(PROMPTS, GREEDY))
    tight = made.batch(Limits(memory=20 * per_position))
    handle = tight.submit([5] * 8, GREEDY)
    assert_same(finish(tight)[handle], made.generate([[5] * 8], GREEDY)[0])
    with pytest.raises(HeadwaterError, match=r"keys and values of 9 \+ 12 tokens take"):
        tight.submit([5] * 9, GREEDY)


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(12, 1.0, seed=3, top_p=0.9, presence_penalty=1, frequency_penalty=1, repetition_penalty=1.3),
        Sampling(12, 1.0, seed=4, min_tokens=9, logit_bias=((chat_stops()[0], 8.0),)),
    ],
    ids=["greedy", "penalties", "least tokens"],
)
def test_a_completion_goes_on_behind_any_of_its_ids_as_if_it_had_not_stopped(sampling: Sampling) -> None:
    made = engine()
    (whole,) = made.generate([PROMPTS[1]], sampling, [sampling.seed or 0])
    batch = made.batch(Limits(prefixes=1 << 20))
    for said in range(len(whole.ids)):
        handle = batch.submit(PROMPTS[1], sampling, sampling.seed or 0, said=whole.ids[:said])
        rest = Completion(whole.ids[said:], whole.logprobs[said:], whole.finish_reason)
        assert_same(finish(batch)[handle], rest)
    assert batch.submit(PROMPTS[1], sampling, sampling.seed or 0, said=whole.ids) == 0 and batch.idle


def test_each_sequence_ends_at_its_own_stop_ids() -> None:
    made = engine()
    free = made.generate(PROMPTS[:2], GREEDY)
    batch = made.batch()
    ends = [free[0].ids[3], free[1].ids[5]]
    handles = [
        batch.submit(prompt, Sampling(max_tokens=12, temperature=0, stop_ids=(end,)))
        for prompt, end in zip(PROMPTS, ends, strict=False)
    ]
    found = finish(batch)
    for handle, one, end in zip(handles, free, ends, strict=True):
        assert found[handle].ids == one.ids[: one.ids.index(end) + 1]
        assert found[handle].finish_reason == "stop"


def test_keys_of_older_weights_are_given_to_no_prompt_that_is_read_later() -> None:
    made, other = engine(0), engine(1)
    new = {name: p.detach().numpy().copy() for name, p in other.model.named_parameters()}
    prompt = PROMPTS[4]
    batch = made.batch(Limits(read_tokens=64))
    batch.submit(prompt, GREEDY)
    finish(batch, steps=2)
    half = batch.submit(prompt[::-1], GREEDY)  # not read yet
    slow = made.batch(Limits(read_tokens=16))
    begun = slow.submit(prompt, GREEDY)
    slow.step()
    made.load_weights(new)
    after = batch.submit(prompt, GREEDY)
    found = finish(batch)
    (wanted, reverse) = other.generate([prompt, prompt[::-1]], GREEDY)
    assert_same(found[after], wanted)
    assert_same(found[half], reverse)
    assert_same(finish(slow)[begun], wanted)
