"""One adapter of a shared engine, as an engine of its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headwater.llm.examples.chat import stop_ids
from headwater.llm.inference.base import Sampling, Tokens
from headwater.llm.inference.forward.low_rank import Adapter, using
from headwater.llm.inference.shared import SharedEngine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class AdaptedEngine:
    """Implements `Engine` for one adapter of a shared engine: its streams run in the batch of all."""

    def __init__(
        self, shared: SharedEngine, adapter: Adapter, tokenizer: PreTrainedTokenizerFast | None = None
    ) -> None:
        """`tokenizer`: the one it was trained with, whose ids are the base's; default: the base's own."""
        engine: Any = shared.engine
        self.shared, self.adapter, self.context = shared, adapter, shared.context
        self.tokenizer = tokenizer or shared.tokenizer
        self.batch = functools.partial(engine.batch, adapter=adapter)
        self.generate = functools.partial(engine.generate, adapter=adapter)
        self.prepare = shared.prepare
        self._stop = tuple(id for id in stop_ids(self.tokenizer) if id not in stop_ids(shared.tokenizer))

    @property
    def backend(self) -> str:
        return self.shared.backend

    @property
    def precision(self) -> str:
        return self.shared.precision

    def stream(self, prompt: list[int], sampling: Sampling, said: Sequence[int] = ()) -> Tokens:
        if self._stop and not sampling.ignore_eos:
            sampling = replace(sampling, stop_ids=(*sampling.stop_ids, *self._stop))
        return self.shared.stream(prompt, sampling, said, self.adapter)

    def score(self, *args: Any, **settings: Any) -> list[list[float]]:
        with using([self.adapter]):
            return self.shared.score(*args, **settings)

    def read(self, *args: Any, **settings: Any) -> Any:
        with using([self.adapter]):
            return self.shared.read(*args, **settings)
