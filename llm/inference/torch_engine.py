"""The torch engine: batched decoding with a KV cache for any transformers causal model.

It gives full log-probabilities, takes new weights in place (rollouts), and its greedy text equals
`transformers`' own. Prompts of different lengths are padded on the left; finished sequences leave the batch
as soon as they are half of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headwater.cluster.errors import HeadwaterError, first_line
from headwater.llm.examples.chat import stop_ids
from headwater.llm.inference.base import Completion, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from headwater.llm.model.adapters import Changes

SCORE_TOKENS = 16_384
"""Maximum tokens (including padding) per scoring pass."""
SCORE_LOGITS = 1 << 27
"""Maximum logits per scoring pass: half a gigabyte in fp32."""

SHARED_TOKENS = 16
"""A beginning that all prompts of a batch share is read apart from this length on."""


@dataclass
class _Step:
    """One decoding step: for each running sequence its index in the batch, id and log-probability."""

    rows: list[int]
    ids: list[int]
    logprobs: list[float]


@dataclass
class _Read:
    """Prompts that the model has read."""

    logits_BV: torch.Tensor
    """Of the next token."""
    mask: torch.Tensor
    positions: torch.Tensor
    """[B, 1] of the last token."""
    cache: Any


class TorchEngine:
    """Implements `llm.inference.base.Engine` for a `transformers` causal language model."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.context = int(model.config.max_position_embeddings)
        self.device = next(model.parameters()).device

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu", threads: int | None = None) -> TorchEngine:
        """Raises HeadwaterError if transformers cannot open the folder as a model."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if threads:
            torch.set_num_threads(threads)
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, local_files_only=True)
        except (OSError, ValueError) as error:
            raise HeadwaterError(
                f"not a model folder ({first_line(error)})",
                where=str(folder),
                fix="give a folder with config.json, model.safetensors and tokenizer.json",
            ) from error
        return cls(model.to(device), tokenizer)

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Replace parameters in place. Raises KeyError for a name that the model does not have."""
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, values in weights.items():
                own[name].copy_(torch.tensor(values))

    def follow(self, changes: Changes, start: TorchEngine) -> None:
        """Take a model's weights from its changes and the engine with its start, in place."""
        first = dict(start.model.named_parameters())
        with torch.no_grad():
            for name, parameter in self.model.named_parameters() if changes.frozen else ():
                held = first[name].to(getattr(torch, changes.frozen)).float()
                if (added := changes.low_rank.get(name)) is not None:
                    up, down = (torch.from_numpy(part).to(held.device) for part in (added.up, added.down))
                    held = held + added.scaling * (up @ down)
                parameter.copy_(held)
        self.load_weights(changes.whole)

    def generate(
        self, prompts: list[list[int]], sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> list[Completion]:
        completions = [Completion([], [], "length") for _ in prompts]
        stop = self._stop_ids(sampling)
        for step in self._decode(prompts, sampling, stop, seeds):
            for row, token, logprob in zip(step.rows, step.ids, step.logprobs, strict=True):
                completions[row].ids.append(token)
                completions[row].logprobs.append(logprob)
                if token in stop:
                    completions[row].finish_reason = "stop"
        return completions

    def stream(self, prompt: list[int], sampling: Sampling) -> Iterator[tuple[int, float]]:
        for step in self._decode([prompt], sampling, self._stop_ids(sampling)):
            yield step.ids[0], step.logprobs[0]

    @torch.inference_mode()
    def score(
        self, prompts: list[list[int]], completions: list[list[int]], *, temperature: float = 1.0
    ) -> list[list[float]]:
        lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        self._check_lengths(lengths, 0)
        # Similar lengths need little padding; equal prompts are next to each other.
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i], lengths[i]))
        limit = min(SCORE_TOKENS, SCORE_LOGITS // int(self.model.config.vocab_size))
        results: list[list[float]] = [[] for _ in prompts]
        for batch in _batches(order, lengths, limit):
            ids_BC = _right_pad([completions[i] for i in batch], self.device)
            logits_BCV = self._completion_logits([prompts[i] for i in batch], ids_BC).float()
            if temperature != 1.0:
                logits_BCV.div_(temperature)
            picked_BC = _log_probability(logits_BCV, ids_BC)
            for position, i in enumerate(batch):
                results[i] = picked_BC[position, : len(completions[i])].tolist()
        return results

    def _completion_logits(self, prompts: list[list[int]], ids_BC: torch.Tensor) -> torch.Tensor:
        """[B, C, V] logits of each completion token. A prompt that several completions share is read once."""
        read = self._read(prompts)
        if ids_BC.shape[1] < 2:
            return read.logits_BV[:, None]
        ones = read.mask.new_ones(ids_BC.shape[0], ids_BC.shape[1] - 1)
        rest: torch.Tensor = self.model(
            input_ids=ids_BC[:, :-1],
            # Padding on the right is invisible to a causal model: no mask is needed for it.
            attention_mask=torch.cat([read.mask, ones], dim=1),
            position_ids=read.positions + ones.cumsum(-1),
            past_key_values=read.cache,
            use_cache=True,
        ).logits
        return torch.cat([read.logits_BV[:, None], rest], dim=1)

    def _read(self, prompts: list[list[int]]) -> _Read:
        """Run the model over prompts: each different one once, and what all of them begin with once."""
        from transformers import DynamicCache

        places: dict[tuple[int, ...], int] = {}
        rows = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
        distinct = [list(prompt) for prompt in places]
        common = _common_prefix(distinct)
        cache = DynamicCache(config=self.model.config)
        ids, mask = _left_pad([prompt[common:] for prompt in distinct], self.device)
        if common:
            beginning = torch.tensor([distinct[0][:common]], device=self.device)
            self.model(input_ids=beginning, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_select_indices(torch.zeros(len(distinct), dtype=torch.long, device=self.device))
            mask = torch.cat([mask.new_ones(len(distinct), common), mask], dim=1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits_BV = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions[:, common:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        last = positions[:, -1:]
        if len(distinct) < len(prompts):
            index = torch.tensor(rows, device=self.device)
            cache.batch_select_indices(index)
            logits_BV, mask, last = logits_BV[index], mask[index], last[index]
        return _Read(logits_BV, mask, last, cache)

    def _stop_ids(self, sampling: Sampling) -> frozenset[int]:
        return frozenset(sampling.stop_ids) | frozenset(stop_ids(self.tokenizer))

    def _check_lengths(self, lengths: list[int], new_tokens: int) -> None:
        longest = max(lengths, default=0)
        if longest + new_tokens > self.context:
            raise HeadwaterError(
                f"{longest} + {new_tokens} tokens exceed the context of {self.context}",
                fix="shorten the prompt or ask for fewer tokens",
            )

    def _decode(
        self,
        prompts: list[list[int]],
        sampling: Sampling,
        stop: frozenset[int],
        seeds: Sequence[int] | None = None,
    ) -> Iterator[_Step]:
        """Yield steps until every sequence has stopped or has `max_tokens`."""
        if not prompts or sampling.max_tokens < 1:
            return
        self._check_lengths([len(prompt) for prompt in prompts], sampling.max_tokens)
        uniforms = _uniforms(sampling, len(prompts), seeds)
        rows = list(range(len(prompts)))  # batch row → prompt
        running = [True] * len(rows)
        with torch.inference_mode():
            read = self._read(prompts)
        logits_BV, mask, positions, cache = read.logits_BV, read.mask, read.positions, read.cache
        for step in range(sampling.max_tokens):
            with torch.inference_mode():
                draws = None if uniforms is None else torch.from_numpy(uniforms[rows, step]).to(self.device)
                tokens_B, logprobs_B = sample(logits_BV.float(), sampling, draws)
            tokens, logprobs = tokens_B.tolist(), logprobs_B.tolist()
            live = [i for i in range(len(rows)) if running[i]]
            yield _Step([rows[i] for i in live], [tokens[i] for i in live], [logprobs[i] for i in live])
            running = [alive and token not in stop for alive, token in zip(running, tokens, strict=True)]
            keep = [i for i, alive in enumerate(running) if alive]
            if not keep or step + 1 == sampling.max_tokens:
                return
            if len(keep) <= len(rows) // 2:
                index = torch.tensor(keep, device=self.device)
                cache.batch_select_indices(index)
                tokens_B, mask, positions = tokens_B[index], mask[index], positions[index]
                rows, running = [rows[i] for i in keep], [True] * len(keep)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = positions + 1
            with torch.inference_mode():
                logits_BV = self.model(
                    input_ids=tokens_B[:, None],
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1]


def sample(
    logits_BV: torch.Tensor, sampling: Sampling, uniforms_B: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose one token per row by inverse transform sampling from given uniforms in [0, 1).

    Returns ids [B] and their log-probabilities [B] before top-p. At temperature 0 (`uniforms_B` None) the
    most likely token is taken. Top-p (Holtzman et al. 2019) keeps the fewest tokens that reach p; only a p
    below 1 needs the vocabulary in order.
    """
    if uniforms_B is None:
        tokens_B = logits_BV.argmax(-1)
        return tokens_B, _log_probability(logits_BV, tokens_B)
    logits_BV = logits_BV / sampling.temperature
    if sampling.top_p >= 1:
        # In fp64: in fp32 the tail of a large vocabulary is lost in the rounding of the sum.
        cumulative_BV = logits_BV.softmax(-1).cumsum(-1, dtype=torch.float64)
        drawn_B1 = uniforms_B[:, None].double() * cumulative_BV[:, -1:]
        tokens_B = torch.searchsorted(cumulative_BV, drawn_B1, right=True)[:, 0]
        return tokens_B, _log_probability(logits_BV, tokens_B)
    probabilities_BV, order_BV = logits_BV.softmax(-1).sort(-1, descending=True)
    cumulative_BV = probabilities_BV.cumsum(-1)
    before_BV = cumulative_BV - probabilities_BV
    kept_B = (before_BV < sampling.top_p).sum(-1, keepdim=True)
    mass_B1 = cumulative_BV.gather(-1, kept_B - 1)
    rank_B1 = torch.searchsorted(cumulative_BV, uniforms_B[:, None].to(cumulative_BV) * mass_B1, right=True)
    tokens_B = order_BV.gather(-1, torch.minimum(rank_B1, kept_B - 1))[:, 0]
    return tokens_B, _log_probability(logits_BV, tokens_B)


def _log_probability(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[ids] over the last axis, without a second tensor of the logits' size."""
    return logits.gather(-1, ids[..., None])[..., 0] - logits.logsumexp(-1)


def _uniforms(sampling: Sampling, rows: int, seeds: Sequence[int] | None = None) -> np.ndarray | None:
    """One draw per row and step, each row from its own stream; None if nothing is sampled.

    A row with its own seed draws what the first row of a batch with that seed would.
    """
    if sampling.temperature == 0:
        return None
    if seeds is None:
        children = np.random.SeedSequence(sampling.seed).spawn(rows)
    else:
        children = [np.random.SeedSequence(seed).spawn(1)[0] for seed in seeds]
    streams = [np.random.Generator(np.random.Philox(child)) for child in children]
    return np.stack([stream.random(sampling.max_tokens, dtype=np.float32) for stream in streams])


def _common_prefix(prompts: list[list[int]]) -> int:
    """Number of first ids that different prompts share; 0 where reading them apart saves little."""
    if len(prompts) < 2 or not all(prompts):
        return 0
    first, last = min(prompts), max(prompts)  # in their order the most different ones
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    shared = min(shared, *(len(prompt) - 1 for prompt in prompts))
    return shared if shared >= SHARED_TOKENS else 0


def _left_pad(prompts: list[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask [B, longest], padded on the left."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise HeadwaterError("the prompt is empty", where=f"prompt {row}")
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _right_pad(sequences: list[list[int]], device: torch.device) -> torch.Tensor:
    """Ids [B, longest], padded on the right."""
    ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    return ids.to(device)


def _batches(order: list[int], lengths: list[int], tokens: int) -> Iterator[list[int]]:
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
