"""What engines with a batch of their own have in common: all but the forward pass.

A backend gives a `Decoder` for `Batch` and the log-probabilities of given ids; scheduling, sampling, seeds,
guides and limits are the same for all of them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from headwater.cluster.errors import HeadwaterError
from headwater.llm.examples.chat import stop_ids
from headwater.llm.inference.base import Completion, Limits, Sampling, Token
from headwater.llm.inference.batching import Batch
from headwater.llm.inference.next_token.guided import Guides
from headwater.llm.inference.next_token.sampling import log_probability

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from headwater.llm.inference.forward.decoder import Decoder
    from headwater.llm.inference.forward.low_rank import Adapter

SCORE_TOKENS = 16_384
"""Maximum tokens (including padding) per scoring pass."""
SCORE_LOGITS = 1 << 27
"""Maximum logits per scoring pass: half a gigabyte in fp32."""
CPU_MEMORY = 1 << 30
"""Bytes for keys and values on a CPU."""


class BatchedEngine:
    """Implements `generate`, `stream`, `batch` and `prepare` of `Engine` on a decoder."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, context: int, vocabulary: int, limits: Limits | None = None
    ) -> None:
        self.tokenizer, self.context, self.limits = tokenizer, context, limits or Limits()
        self._vocabulary = vocabulary
        self._version = 0  # changes of the weights

    def _open(self) -> Decoder:
        raise NotImplementedError

    def _after(self, ids: list[int]) -> torch.Tensor:
        """[len(ids) - 1, V] logits in fp32 of the ids from the second on."""
        raise NotImplementedError

    def _memory(self) -> int:
        """Bytes for keys and values when no limit is set."""
        return CPU_MEMORY

    def batch(self, limits: Limits | None = None, adapter: Adapter | None = None) -> Batch:
        """`adapter`: of all sequences that bring none; torch has such."""
        decoder = self._open()
        chosen = limits or self.limits
        if chosen.memory is None:
            chosen = replace(chosen, memory=max(self._memory(), decoder.bytes_per_position * self.context))
        return Batch(
            decoder,
            self.context,
            stop_ids(self.tokenizer),
            chosen,
            lambda: self._version,
            self._vocabulary,
            lambda schema, ends: self._guides.open(schema, ends),
            adapter,
        )

    @cached_property
    def _guides(self) -> Guides:
        return Guides(self.tokenizer, self._vocabulary)

    def prepare(self, schema: str) -> None:
        self._guides.compile(schema)

    def generate(
        self,
        prompts: list[list[int]],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        adapter: Adapter | None = None,
    ) -> list[Completion]:
        completions = [Completion([], [], "length") for _ in prompts]
        if sampling.max_tokens < 1 or not prompts:
            return completions
        batch = self.batch(adapter=adapter)
        drawn = [(sampling.seed, row) for row in range(len(prompts))]
        if seeds is not None:
            drawn = [(seed, 0) for seed in seeds]
        handles = {
            batch.submit(prompt, sampling, seed, number): completion
            for prompt, completion, (seed, number) in zip(prompts, completions, drawn, strict=True)
        }
        while not batch.idle:
            for event in batch.step():
                completion = handles[event.handle]
                completion.ids.append(event.id)
                completion.logprobs.append(event.logprob)
                if sampling.top_logprobs:
                    completion.tops.append(event.top)
                completion.finish_reason = event.finish_reason or "length"
        return completions

    def stream(
        self, prompt: list[int], sampling: Sampling, said: Sequence[int] = ()
    ) -> Generator[Token, None, None]:
        if sampling.max_tokens < 1:
            return
        batch = self.batch()
        batch.submit(prompt, sampling, said=said)
        while not batch.idle:
            for event in batch.step():
                yield event.token

    @torch.inference_mode()
    def read(self, ids: list[int], top: int = 0) -> list[Token]:
        self._check_lengths([len(ids)])
        if len(ids) < 2:
            return []
        logits_CV = self._after(ids)
        picked = log_probability(logits_CV, torch.tensor(ids[1:], device=logits_CV.device)).tolist()
        best = logits_CV.topk(min(top, logits_CV.shape[-1]))
        logprobs_CT = (best.values - logits_CV.logsumexp(-1, keepdim=True)).tolist()
        likeliest = zip(best.indices.tolist(), logprobs_CT, strict=True)
        tops = [tuple(zip(places, values, strict=True)) for places, values in likeliest]
        return [Token(*each) for each in zip(ids[1:], picked, tops, strict=True)]

    def _check_lengths(self, lengths: list[int]) -> None:
        if (longest := max(lengths, default=0)) > self.context:
            raise HeadwaterError(
                f"{longest} tokens exceed the context of {self.context}", fix="shorten the prompt"
            )


def batches(order: list[int], lengths: list[int], tokens: int) -> Iterator[list[int]]:
    """Split an order into batches of at most `tokens` tokens, padded to their longest; of one at least."""
    batch: list[int] = []
    widest = 0
    for i in order:
        widest = max(widest, lengths[i])
        if batch and widest * (len(batch) + 1) > tokens:
            yield batch
            batch, widest = [], lengths[i]
        batch.append(i)
    if batch:
        yield batch
