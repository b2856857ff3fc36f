"""The torch engine: continuous batching (`batching.Batch`) for any transformers causal model.

It gives full log-probabilities, takes new weights in place (rollouts), and its greedy text equals
`transformers`' own. Calls share nothing but the weights: a call's result is a function of its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headwater.cluster.errors import HeadwaterError, first_line
from headwater.llm.hardware.precision import torch_dtype
from headwater.llm.inference.base import Limits
from headwater.llm.inference.engine import CPU_MEMORY, SCORE_LOGITS, SCORE_TOKENS, BatchedEngine, batches
from headwater.llm.inference.forward.decoder import Decoder, Way, way_of
from headwater.llm.inference.forward.low_rank import load_adapter
from headwater.llm.inference.forward.prefixes import SHARED_TOKENS, common
from headwater.llm.inference.next_token.sampling import log_probability

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from headwater.llm.inference.forward.low_rank import Adapter
    from headwater.llm.model.adapters import Changes

GPU_SHARE = 0.3
"""Share of a GPU's memory for keys and values: weights and a reward model may be on it, too."""


@dataclass
class _Read:
    """Prompts that the model has read."""

    logits_BV: torch.Tensor
    """Of the next token."""
    mask: torch.Tensor
    positions: torch.Tensor
    """[B, 1] of the last token."""
    cache: Any


class TorchEngine(BatchedEngine):
    """Implements `llm.inference.base.Engine` for a `transformers` causal language model."""

    backend = "torch"

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerFast, limits: Limits | None = None) -> None:
        vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)
        super().__init__(tokenizer, int(model.config.max_position_embeddings), vocabulary, limits)
        self.model = model.eval()
        self._way: Way | None = None
        self.device = next(model.parameters()).device

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str = "cpu", threads: int | None = None, precision: str = "auto"
    ) -> TorchEngine:
        """`precision`: `auto` is bf16 on GPUs and fp32 on CPUs.

        Raises HeadwaterError if transformers cannot open the folder as a model.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of tensors; stages show their own
        if threads:
            torch.set_num_threads(threads)
        by_device = "bf16" if device.startswith("cuda") else "fp32"
        dtype = torch_dtype(by_device if precision == "auto" else precision)
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

    @property
    def precision(self) -> str:
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Replace parameters in place. Raises KeyError for a name that the model does not have."""
        own = dict(self.model.named_parameters())
        self._version += 1
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

    def _open(self) -> Decoder:
        if self._way is None:
            self._way = way_of(self.model)
        return self._way.open(self.model)

    def adapter(self, folder: Path) -> Adapter:
        """Open a LoRA adapter for this model, which stays as it is. Raises as `load_adapter`."""
        return load_adapter(self.model, folder)

    @torch.inference_mode()
    def score(
        self, prompts: list[list[int]], completions: list[list[int]], *, temperature: float = 1.0
    ) -> list[list[float]]:
        lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        self._check_lengths(lengths)
        # Similar lengths need little padding; equal prompts are next to each other.
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i], lengths[i]))
        limit = min(SCORE_TOKENS, SCORE_LOGITS // int(self.model.config.vocab_size))
        results: list[list[float]] = [[] for _ in prompts]
        for batch in batches(order, lengths, limit):
            ids_BC = _right_pad([completions[i] for i in batch], self.device)
            logits_BCV = self._completion_logits([prompts[i] for i in batch], ids_BC).float()
            if temperature != 1.0:
                logits_BCV.div_(temperature)
            picked_BC = log_probability(logits_BCV, ids_BC)
            for position, i in enumerate(batch):
                results[i] = picked_BC[position, : len(completions[i])].tolist()
        return results

    def _after(self, ids: list[int]) -> torch.Tensor:
        return self._completion_logits([ids[:1]], torch.tensor([ids[1:]], device=self.device))[0].float()

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

    def _memory(self) -> int:
        """Bytes for keys and values when no limit is set."""
        if self.device.type != "cuda":
            return CPU_MEMORY
        return int(GPU_SHARE * torch.cuda.get_device_properties(self.device).total_memory)


def _common_prefix(prompts: list[list[int]]) -> int:
    """Number of first ids that different prompts share; 0 where reading them apart saves little."""
    if len(prompts) < 2 or not all(prompts):
        return 0
    first, last = min(prompts), max(prompts)  # in their order the most different ones
    shared = min(common(first, last), *(len(prompt) - 1 for prompt in prompts))
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
