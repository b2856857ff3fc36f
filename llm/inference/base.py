"""What every inference backend offers: generate, stream, score, on token ids.

Token ids in, token ids out: text is never re-encoded on the way, so what was sampled is exactly
what is scored, trained on and served.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. Temperature 0 takes the likeliest; `top_p` 1 keeps the whole distribution."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    """Same seed, prompt position and weights: same tokens, whatever else is in the batch."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end a completion, beside the tokenizer's end of turn. The ending id is kept."""


@dataclass
class Completion:
    """What was generated for one prompt.

    `logprobs[i]` is the natural-log probability of `ids[i]` under the model's distribution at the
    sampling temperature (at temperature 0: of the plain distribution), before top-p cut it.
    """

    ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]


class Engine(Protocol):
    """One interface for every backend."""

    tokenizer: PreTrainedTokenizerFast
    context: int
    """Positions that prompt and completion share."""

    def generate(
        self, prompts: list[list[int]], sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> list[Completion]:
        """Complete a batch of prompts (each a list of at least one id).

        `seeds`, one for each prompt, take the place of `sampling.seed`: each prompt is then completed as
        it would be alone with its own seed.
        """
        ...

    def stream(self, prompt: list[int], sampling: Sampling) -> Iterator[tuple[int, float]]:
        """Yield (id, log-probability) as each token is generated, the ending id included."""
        ...

    def score(
        self, prompts: list[list[int]], completions: list[list[int]], *, temperature: float = 1.0
    ) -> list[list[float]]:
        """Per-token log-probabilities of given completions after their prompts."""
        ...
