"""The torch engine agrees with transformers, with itself and with its own probabilities."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headwater.cluster.errors import HeadwaterError
from headwater.llm.examples.chat import stop_ids
from headwater.llm.inference import Sampling, load_engine
from headwater.llm.inference.forward.prefixes import SHARED_TOKENS
from headwater.llm.inference.next_token.sampling import sample
from headwater.llm.inference.torch_engine import TorchEngine
from headwater.llm.model import adapters
from headwater.llm.model.adapters import LoraConfig
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import save_model, small_engine, small_model

PROMPTS = [[7, 8, 9], [20, 21, 22, 23, 24, 25, 26], [50], [60, 61]]


def test_greedy_ids_are_those_of_transformers_generate() -> None:
    engine = small_engine()
    completions = engine.generate(PROMPTS, Sampling(max_tokens=24, temperature=0))
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        expected = engine.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=24,
            do_sample=False,
            pad_token_id=engine.tokenizer.pad_token_id,
        )[0, len(prompt) :].tolist()
        assert completion.ids == expected


def test_generated_log_probabilities_equal_those_of_scoring() -> None:
    engine = small_engine()
    completions = engine.generate(PROMPTS, Sampling(max_tokens=24, seed=1))
    scored = engine.score(PROMPTS, [completion.ids for completion in completions])
    for completion, logprobs in zip(completions, scored, strict=True):
        np.testing.assert_allclose(completion.logprobs, logprobs, atol=2e-4)


def test_scores_equal_one_plain_pass_and_do_not_depend_on_the_batch() -> None:
    engine = small_engine()
    prompts = [PROMPTS[1], PROMPTS[0], PROMPTS[1], PROMPTS[2], PROMPTS[1]]
    completions = [[5, 6, 7, 8], [9], [10, 11], [], [12, 13, 14]]
    scored = engine.score(prompts, completions, temperature=0.7)
    for prompt, completion, logprobs in zip(prompts, completions, scored, strict=True):
        with torch.no_grad():
            logits = engine.model(input_ids=torch.tensor([prompt + completion])).logits[0] / 0.7
        places = torch.arange(len(prompt) - 1, len(prompt) + len(completion) - 1)
        plain = logits.log_softmax(-1)[places, torch.tensor(completion, dtype=torch.long)]
        np.testing.assert_allclose(logprobs, plain.numpy(), atol=2e-5)


def test_a_prompt_that_several_scored_completions_share_is_read_once() -> None:
    engine = TorchEngine(copy.deepcopy(small_model()), chat_tokenizer())
    read: list[tuple[int, ...]] = []
    engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    engine.score([PROMPTS[1]] * 3, [[5, 6, 7]] * 3)
    assert read == [(1, 7), (3, 2)]


def test_a_beginning_that_all_scored_prompts_share_is_read_once() -> None:
    engine = TorchEngine(copy.deepcopy(small_model()), chat_tokenizer())
    beginning = list(range(5, 5 + SHARED_TOKENS))
    prompts = [beginning + rest for rest in ([30], [40, 41, 42], [40, 50])]
    completions = [[5, 6], [7], [8, 9, 10]]
    alone = [engine.score([p], [c])[0] for p, c in zip(prompts, completions, strict=True)]
    read: list[tuple[int, ...]] = []
    engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    together = engine.score(prompts, completions)
    assert read == [(1, SHARED_TOKENS), (3, 3), (3, 2)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_sampling_does_not_depend_on_what_else_is_in_the_batch() -> None:
    engine = small_engine()
    alone = engine.generate(PROMPTS[:1], Sampling(max_tokens=16, seed=5))[0]
    together = engine.generate(PROMPTS, Sampling(max_tokens=16, seed=5))[0]
    assert alone.ids == together.ids


def test_streaming_gives_what_generating_gives() -> None:
    engine = small_engine()
    sampling = Sampling(max_tokens=16, seed=3)
    whole = engine.generate(PROMPTS[:1], sampling)[0]
    assert [token.id for token in engine.stream(PROMPTS[0], sampling)] == whole.ids


def test_a_stop_id_ends_the_completion_and_is_kept() -> None:
    engine = small_engine()
    free = engine.generate(PROMPTS[1:2], Sampling(max_tokens=8, temperature=0))[0]
    stopped = engine.generate(PROMPTS[1:2], Sampling(max_tokens=8, temperature=0, stop_ids=(free.ids[2],)))[0]
    first = free.ids.index(free.ids[2])
    assert stopped.ids == free.ids[: first + 1]
    assert (free.finish_reason, stopped.finish_reason) == ("length", "stop")


@pytest.mark.parametrize("token", ["<|im_end|>", "<|endoftext|>"])
def test_the_end_of_a_turn_and_of_a_document_end_a_completion_unasked(token: str) -> None:
    engine = TorchEngine(copy.deepcopy(small_model()), chat_tokenizer())
    end = int(engine.tokenizer.convert_tokens_to_ids(token))

    def likeliest(module: Any, args: Any, output: Any) -> None:
        output.logits[..., end] += 1e4

    engine.model.register_forward_hook(likeliest)
    (ended,) = engine.generate(PROMPTS[:1], Sampling(max_tokens=8, seed=0))
    assert (ended.ids, ended.finish_reason) == ([end], "stop")
    assert [token.id for token in engine.stream(PROMPTS[0], Sampling(max_tokens=8, seed=0))] == [end]


def test_a_model_without_a_chat_template_ends_at_the_end_of_a_document() -> None:
    tokenizer = copy.deepcopy(chat_tokenizer())
    tokenizer.chat_template = None
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") in stop_ids(tokenizer)
    (completion,) = TorchEngine(small_model(), tokenizer).generate(PROMPTS[:1], Sampling(max_tokens=2))
    assert completion.ids


def test_sampled_frequencies_follow_the_distribution_and_top_p_cuts_its_tail() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(20_000, 1)
    draws = torch.from_numpy(np.random.default_rng(0).random(20_000, dtype=np.float32))
    tokens, _ = sample(logits, 1.0, 1.0, draws)
    shares = torch.bincount(tokens, minlength=4) / len(tokens)
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=0.015)
    nearly, _ = sample(logits, 1.0, 0.999, draws)  # in the order of the probabilities
    assert torch.equal(nearly, tokens)
    cut, _ = sample(logits, 1.0, 0.6, draws)  # 0.5 does not reach 0.6, 0.5 + 0.3 does
    assert set(cut.tolist()) == {0, 1}


def test_the_whole_distribution_is_sampled_in_the_vocabularys_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "sort", None)  # it took most of a step
    logits = torch.log(torch.tensor([[0.1, 0.0, 0.6, 0.3, 0.0]])).repeat(7, 1)
    draws = torch.tensor([0.0, 0.0999, 0.1001, 0.6999, 0.7001, 0.9999, 1 - 2**-24])
    tokens, logprobs = sample(logits, 1.0, 1.0, draws)
    assert tokens.tolist() == [0, 0, 2, 2, 3, 3, 3]  # never one of probability 0
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.1, 0.1, 0.6, 0.6, 0.3, 0.3, 0.3]))


def test_new_weights_change_what_is_generated() -> None:
    engine, other = small_engine(0), small_engine(1)
    sampling = Sampling(max_tokens=12, temperature=0)
    wanted = other.generate(PROMPTS, sampling)
    own = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
    engine.load_weights({name: p.detach().numpy() for name, p in other.model.named_parameters()})
    assert [c.ids for c in engine.generate(PROMPTS, sampling)] == [c.ids for c in wanted]
    engine.load_weights({name: p.numpy() for name, p in own.items()})


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_an_engine_follows_a_model_by_its_adapters_alone(precision: torch.dtype) -> None:
    start, engine = small_engine(0), small_engine(1)
    kept = copy.deepcopy(start.model.state_dict())
    learner = adapters.with_adapters(
        copy.deepcopy(start.model).to(precision), LoraConfig(rank=2, alpha=6), seed=0
    )
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    changes = adapters.changes(learner)
    engine.follow(changes, start)
    wanted = adapters.whole_weights(learner)
    assert changes.frozen and not changes.whole and changes.low_rank
    for name, parameter in engine.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), wanted[name])
    sent = sum(low.up.nbytes + low.down.nbytes for low in changes.low_rank.values())
    assert sent < 0.2 * sum(values.nbytes for values in wanted.values())
    for name, values in start.model.state_dict().items():
        assert torch.equal(values, kept[name]), name


def test_an_engine_follows_a_model_without_adapters_by_all_its_weights() -> None:
    start, engine, learner = small_engine(0), small_engine(1), small_engine(2).model
    engine.follow(adapters.changes(learner), start)
    for name, parameter in learner.named_parameters():
        assert torch.equal(dict(engine.model.named_parameters())[name], parameter), name


def test_a_prompt_that_does_not_fit_and_an_empty_one_are_refused() -> None:
    engine = small_engine()
    with pytest.raises(HeadwaterError, match="exceed the context of 256"):
        engine.generate([[5] * 250], Sampling(max_tokens=10))
    with pytest.raises(HeadwaterError, match="prompt is empty"):
        engine.generate([[]], Sampling(max_tokens=1))


def test_a_saved_model_opens_and_a_folder_without_one_is_named(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "saved")
    opened = load_engine(folder.local())
    sampling = Sampling(max_tokens=8, temperature=0)
    assert opened.generate(PROMPTS, sampling)[0].ids == small_engine().generate(PROMPTS, sampling)[0].ids
    with pytest.raises(HeadwaterError, match="not a model folder"):
        load_engine(tmp_path)
