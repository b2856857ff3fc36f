"""The OpenVINO engine: several times the torch engine's tokens on a CPU, for models that only serve.

Scheduling, sampling, seeds, guides and prefixes are those of `BatchedEngine`; OpenVINO computes logits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headwater.cluster.errors import HeadwaterError
from headwater.llm.inference.engine import SCORE_LOGITS, SCORE_TOKENS, BatchedEngine, batches
from headwater.llm.inference.next_token.sampling import log_probability
from headwater.llm.inference.openvino import runtime
from headwater.llm.inference.openvino.converted import GRAPH, converted
from headwater.llm.inference.openvino.decoder import PagedDecoder
from headwater.llm.inference.openvino.graph import joined
from headwater.llm.model.files.source import CONFIG

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class OpenVinoEngine(BatchedEngine):
    """Implements `llm.inference.base.Engine`. Its weights cannot be changed."""

    backend = "openvino"

    def __init__(
        self, compiled: Any, tokenizer: PreTrainedTokenizerFast, config: dict[str, Any], precision: str
    ) -> None:
        super().__init__(tokenizer, int(config["max_position_embeddings"]), int(config["vocab_size"]))
        self._compiled, self.precision = compiled, precision

    @classmethod
    def load(cls, model: str | Path, *, int8: bool = False, threads: int | None = None) -> OpenVinoEngine:
        """`model`: a folder on a disk or in S3. Raises HeadwaterError for one with a `graph.fault`."""
        from transformers import AutoTokenizer

        if threads:
            torch.set_num_threads(threads)
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",  # else bf16 where the CPU has it
            "KV_CACHE_PRECISION": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # activations stay in fp32
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # replicas share the machine
            "INFERENCE_NUM_THREADS": threads or 0,
        }
        folder = converted(str(model), int8=int8)
        core = runtime().Core()
        compiled = core.compile_model(joined(core.read_model(folder / GRAPH)), "CPU", settings)
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return cls(compiled, tokenizer, config, "int8" if int8 else "float32")

    def _open(self) -> PagedDecoder:
        return PagedDecoder(self._compiled)

    @torch.inference_mode()
    def score(
        self, prompts: list[list[int]], completions: list[list[int]], *, temperature: float = 1.0
    ) -> list[list[float]]:
        lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        self._check_lengths(lengths)
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i], lengths[i]))
        results: list[list[float]] = [[] for _ in prompts]
        for batch in batches(order, lengths, min(SCORE_TOKENS, SCORE_LOGITS // self._vocabulary)):
            logits = self._logits([prompts[i] for i in batch], [completions[i] for i in batch])
            for i, logits_CV in zip(batch, logits, strict=True):
                if temperature != 1.0:
                    logits_CV.div_(temperature)
                results[i] = log_probability(
                    logits_CV, torch.tensor(completions[i], dtype=torch.long)
                ).tolist()
        return results

    def _after(self, ids: list[int]) -> torch.Tensor:
        return self._logits([ids[:1]], [ids[1:]])[0]

    def _logits(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[torch.Tensor]:
        """[C, V] of each completion: those that its ids are chosen from. A prompt that several completions
        share is read once."""
        decoder = self._open()
        distinct = {tuple(prompt): row for row, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        if () in distinct:
            raise HeadwaterError("the prompt is empty", fix="give at least one token id")
        rows = [len(distinct) + number for number in range(len(prompts))]
        longest = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
        decoder.reserve(len(distinct) + len(prompts), longest, 0)
        first_PV = decoder.read(list(distinct.values()), [0] * len(distinct), list(distinct))
        for row, prompt in zip(rows, prompts, strict=True):
            decoder.copy(distinct[tuple(prompt)], row, len(prompt))
        going = [number for number, completion in enumerate(completions) if len(completion) > 1]
        rest = [completions[number][:-1] for number in going]
        logits_TV = first_PV[:0]
        if going:
            logits_TV = decoder.logits(
                [rows[number] for number in going],
                [len(prompts[number]) for number in going],
                rest,
                np.arange(sum(map(len, rest))),
            )
        parts = dict(zip(going, logits_TV.split([len(each) for each in rest]), strict=True))
        return [
            torch.cat([first_PV[distinct[tuple(prompt)]][None], parts.get(number, logits_TV[:0])])[
                : len(completion)
            ]
            for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
