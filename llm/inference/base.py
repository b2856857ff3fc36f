"""The interface of inference engines: generate, stream and score token ids.

Token ids in, token ids out: text is never re-encoded in between, so the sampled tokens are exactly those that
are scored, trained on and served.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. Temperature 0 takes the most likely; `top_p` 1 keeps the whole distribution."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    """The same seed, prompt index and weights give the same tokens, whatever else is in the batch."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end a completion, in addition to `chat.stop_ids` of the tokenizer. The ending id is kept."""


@dataclass
class Completion:
    """The completion of one prompt.

    `logprobs[i]` is the natural-log probability of `ids[i]` under the model's distribution at the sampling
    temperature, before top-p (at temperature 0: of the unscaled distribution).
    """

    ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]


class Engine(Protocol):
    """Common interface of all backends."""

    tokenizer: PreTrainedTokenizerFast
    context: int
    """Maximum number of positions of prompt and completion together."""

    def generate(
        self, prompts: list[list[int]], sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> list[Completion]:
        """Complete a batch of prompts (each a list of at least one id).

        `seeds`, one per prompt, replace `sampling.seed`: each prompt is completed as if alone with its seed.
        """
        ...

    def stream(self, prompt: list[int], sampling: Sampling) -> Iterator[tuple[int, float]]:
        """Yield (id, log-probability) as each token is generated, including the ending id."""
        ...

    def score(
        self, prompts: list[list[int]], completions: list[list[int]], *, temperature: float = 1.0
    ) -> list[list[float]]:
        """Per-token log-probabilities (nats) of given completions after their prompts."""
        ...
