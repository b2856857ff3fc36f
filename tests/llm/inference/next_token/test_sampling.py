"""Settings of sampling: each follows its definition, and none depends on what else is in the batch."""

from __future__ import annotations

import collections
import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from headwater.cluster.errors import HeadwaterError
from headwater.llm.examples.chat import stop_ids
from headwater.llm.inference.base import Completion, Limits, Sampling
from headwater.llm.inference.next_token.sampling import Choices, choose, sample
from headwater.llm.inference.torch_engine import TorchEngine
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import small_engine, small_model

PROMPTS = [[7, 8, 9], [20, 21, 22, 23, 24, 25, 26], list(range(30, 70))]
OBJECT = '{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}'
EVERY = {
    "top_k": Sampling(16, top_k=5),
    "min_p": Sampling(16, min_p=0.2),
    "top_p with top_k": Sampling(16, 0.8, 0.7, top_k=9),
    "presence": Sampling(16, presence_penalty=1.5),
    "frequency": Sampling(16, temperature=0, frequency_penalty=1.5),
    "repetition": Sampling(16, repetition_penalty=1.4),
    "bias": Sampling(16, logit_bias=((60, 5.0), (61, -100.0))),
    "top_logprobs": Sampling(16, top_logprobs=4),
    "min_tokens": Sampling(16, logit_bias=((stop_ids(chat_tokenizer())[0], 6.0),), min_tokens=7),
    "ignore_eos": Sampling(16, logit_bias=((stop_ids(chat_tokenizer())[0], 6.0),), ignore_eos=True),
    "schema": Sampling(16, schema=OBJECT),
}


def chosen(logits_BV: torch.Tensor, sampling: Sampling, ids: list[int], prompt: tuple[int, ...] = ()) -> Any:
    """The tokens of rows that have chosen `ids` before, each with a draw of its own."""
    draws = np.linspace(0, 1, len(logits_BV), endpoint=False, dtype=np.float32)
    rows = [
        Choices(prompt, sampling, np.full(len(ids) + 1, draw, np.float32), frozenset(), None, list(ids))
        for draw in draws
    ]
    return choose(logits_BV, rows)


LOGITS = torch.log(torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04]))


def shares(sampling: Sampling, ids: list[int], prompt: tuple[int, ...] = ()) -> list[float]:
    """The probability that each id is chosen with."""
    found = chosen(LOGITS.repeat(4000, 1), sampling, ids, prompt)
    counts = collections.Counter(token.id for token in found)
    return [counts[id] / len(found) for id in range(len(LOGITS))]


@pytest.mark.parametrize(
    ("settings", "warpers"),
    [
        ({"top_k": 3}, [TopKLogitsWarper(3)]),
        ({"min_p": 0.3}, [MinPLogitsWarper(0.3)]),
        ({"top_k": 3, "top_p": 0.7}, [TopKLogitsWarper(3), TopPLogitsWarper(0.7)]),
        (
            {"min_p": 0.2, "top_k": 4, "top_p": 0.9},
            [MinPLogitsWarper(0.2), TopKLogitsWarper(4), TopPLogitsWarper(0.9)],
        ),
    ],
)
def test_cuts_leave_the_distribution_that_transformers_leaves(settings: Any, warpers: Any) -> None:
    wanted = (LOGITS / 0.8)[None].clone()
    for warper in warpers:
        wanted = warper(torch.zeros(1, 0, dtype=torch.long), wanted)
    found = shares(Sampling(1, 0.8, **settings), [])
    np.testing.assert_allclose(found, wanted[0].softmax(-1), atol=2e-3)
    assert 0 in found


def test_presence_and_frequency_penalties_are_openais_over_the_completion_alone() -> None:
    ids = [0, 0, 0, 2]
    found = shares(Sampling(9, presence_penalty=0.7, frequency_penalty=0.4), ids, prompt=(1, 1, 4))
    counts = torch.tensor([3.0, 0, 1, 0, 0, 0])
    wanted = (LOGITS - 0.4 * counts - 0.7 * (counts > 0)).softmax(-1)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_a_repetition_penalty_gives_the_ids_of_transformers() -> None:
    engine = small_engine()
    model: Any = engine.model
    for prompt in PROMPTS:
        given = torch.tensor([prompt])
        wanted = model.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=24,
            do_sample=False,
            repetition_penalty=1.6,
            eos_token_id=list(stop_ids(engine.tokenizer)),
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        (found,) = engine.generate([prompt], Sampling(24, temperature=0, repetition_penalty=1.6))
        (free,) = engine.generate([prompt], Sampling(24, temperature=0))
        assert found.ids == wanted != free.ids


def test_a_bias_is_added_to_its_logits() -> None:
    bias = ((3, 1.5), (0, -100.0))
    wanted = (LOGITS + torch.tensor([-100, 0, 0, 1.5, 0, 0])).softmax(-1)
    np.testing.assert_allclose(shares(Sampling(1, logit_bias=bias), []), wanted, atol=2e-3)
    engine = small_engine()
    (only,) = engine.generate(PROMPTS[:1], Sampling(5, logit_bias=((77, 100.0),)))
    assert only.ids == [77] * 5
    with pytest.raises(HeadwaterError, match="names the id 100000"):
        engine.batch().submit([5], Sampling(5, logit_bias=((100_000, 1.0),)))


def test_log_probabilities_and_their_rivals_are_the_models_own_whatever_is_cut_or_added() -> None:
    settings = Sampling(
        9, 0.5, top_k=2, logit_bias=((4, 3.0),), presence_penalty=2.0, top_logprobs=3, min_p=0.01
    )
    own = (LOGITS / 0.5).log_softmax(-1)
    found = chosen(LOGITS.repeat(50, 1), settings, [0])
    assert {token.id for token in found} == {1, 4}
    for token in found:
        assert token.logprob == pytest.approx(float(own[token.id]), abs=1e-5)
        assert [id for id, _ in token.top] == [0, 1, 2]
        np.testing.assert_allclose([value for _, value in token.top], own[:3], atol=1e-5)
    (greedy,) = chosen(LOGITS[None], Sampling(9, 0, top_logprobs=1, logit_bias=((5, 9.0),)), [])
    assert greedy.id == 5 and greedy.logprob == pytest.approx(float(LOGITS[5]), abs=1e-5)
    assert greedy.top == ((0, pytest.approx(float(LOGITS[0]), abs=1e-5)),)


def test_rivals_are_told_by_completions_and_streams_where_they_are_asked_for() -> None:
    engine = small_engine()
    sampling = Sampling(6, seed=3, top_logprobs=2)
    (whole,) = engine.generate(PROMPTS[:1], sampling)
    assert [len(top) for top in whole.tops] == [2] * len(whole.ids)
    assert list(engine.stream(PROMPTS[0], sampling)) == whole.tokens
    (without,) = engine.generate(PROMPTS[:1], Sampling(6, seed=3))
    assert without.ids == whole.ids and without.tops == []


@pytest.mark.parametrize(
    ("smallest", "expected"), [("temperature", 0), ("top_p", 0), ("repetition_penalty", 1)]
)
def test_the_smallest_value_of_a_setting_chooses_as_its_limit_does(smallest: str, expected: int) -> None:
    """5e-324 is 0 in fp32. One request with it must not end those that share its batch."""
    given: Any = {"top_p": 0.9, "top_logprobs": 2, smallest: 5e-324}
    for token in chosen(LOGITS.repeat(5, 1) + 2, Sampling(1, **given), [], prompt=(1,)):
        assert token.id == expected
        assert np.isfinite([token.logprob, *(logprob for _, logprob in token.top)]).all()


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_logit_of_minus_infinity_is_never_chosen(top_p: float) -> None:
    logits = torch.full((3, 50), -torch.inf)
    logits[:, 7], logits[:, 30] = 0.0, -1e-3
    draws = torch.tensor([0.0, 0.5, 1 - 2**-24])
    tokens, _ = sample(logits, 1.0, top_p, draws)
    assert set(tokens.tolist()) == {7, 30}


def ending_engine() -> TorchEngine:
    """A model that would end at once."""
    engine = TorchEngine(copy.deepcopy(small_model()), chat_tokenizer())
    end = stop_ids(engine.tokenizer)[0]

    def likeliest(module: Any, args: Any, output: Any) -> None:
        output.logits[..., end] += 1e3

    engine.model.register_forward_hook(likeliest)
    return engine


def test_a_completion_has_its_least_tokens_and_can_ignore_the_end() -> None:
    engine = ending_engine()
    end = stop_ids(engine.tokenizer)[0]
    (free, longer, ignored, stopped) = (
        engine.generate(PROMPTS[:1], Sampling(8, seed=1, **more))[0]
        for more in ({}, {"min_tokens": 5}, {"ignore_eos": True}, {"ignore_eos": True, "stop_ids": (end,)})
    )
    assert (free.ids, free.finish_reason) == ([end], "stop")
    assert len(longer.ids) == 6 and longer.ids.index(end) == 5 and longer.finish_reason == "stop"
    assert (ignored.ids, ignored.finish_reason) == ([end] * 8, "length")
    assert (stopped.ids, stopped.finish_reason) == ([end], "stop")


@pytest.mark.parametrize("setting", EVERY)
def test_a_setting_gives_the_same_tokens_alone_and_among_strangers(setting: str) -> None:
    engine, sampling = small_engine(), EVERY[setting]
    alone = [engine.generate([prompt], sampling, [n])[0] for n, prompt in enumerate(PROMPTS)]
    plain = [engine.generate([prompt], Sampling(16), [n])[0] for n, prompt in enumerate(PROMPTS)]
    if setting != "top_logprobs":
        assert [one.ids for one in alone] != [one.ids for one in plain]
    for limits in (Limits(), Limits(sequences=4, read_tokens=5)):
        batch = engine.batch(limits)
        for other in EVERY.values():
            batch.submit(PROMPTS[1], other, seed=9)
        handles = [batch.submit(prompt, sampling, n) for n, prompt in enumerate(PROMPTS)]
        others = [batch.submit(prompt, Sampling(16), n) for n, prompt in enumerate(PROMPTS)]
        found: dict[int, Completion] = collections.defaultdict(lambda: Completion([], [], "length"))
        while not batch.idle:
            for event in batch.step():
                found[event.handle].ids.append(event.id)
        assert [found[handle].ids for handle in handles] == [one.ids for one in alone]
        assert [found[handle].ids for handle in others] == [one.ids for one in plain]


@pytest.mark.soak
def test_requests_give_the_same_ids_alone_and_in_batches_of_strangers() -> None:
    engine = small_engine()
    settings = [*EVERY.values(), Sampling(16), Sampling(16, 0.7, 0.9)]
    asked = [
        ([5 + (seed * 7 + place) % 400 for place in range(1 + seed % 40)], settings[seed % len(settings)])
        for seed in range(64)
    ]
    alone = [
        engine.generate([prompt], sampling, [seed])[0].ids for seed, (prompt, sampling) in enumerate(asked)
    ]
    for size in (3, 16):
        batch = engine.batch(Limits(sequences=size, read_tokens=64, prefixes=1 << 22))
        handles = [batch.submit(prompt, sampling, seed) for seed, (prompt, sampling) in enumerate(asked)]
        found: dict[int, list[int]] = collections.defaultdict(list)
        while not batch.idle:
            for event in batch.step():
                found[event.handle].append(event.id)
        assert [found[handle] for handle in handles] == alone
