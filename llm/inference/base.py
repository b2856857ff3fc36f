"""The interface of inference engines: generate, stream and score token ids.

Token ids in, token ids out: text is never re-encoded in between, so the sampled tokens are exactly those that
are scored, trained on and served.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from headwater.llm.inference.forward.prefixes import Prefixes


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
    top_k: int = 0
    """Sample among so many most likely tokens; 0: among all."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one's probability (Nguyen et al. 2024)."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of each id that the completion already has (OpenAI's definition)."""
    frequency_penalty: float = 0.0
    """Subtracted from the logit of an id for each time that the completion has it (OpenAI's definition)."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of ids in prompt or completion (CTRL, Keskar et al.
    2019)."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(id, added to its logit)."""
    top_logprobs: int = 0
    """Report so many most likely tokens at each place."""
    min_tokens: int = 0
    """No ending id before so many tokens; without effect on a `schema`."""
    ignore_eos: bool = False
    """`chat.stop_ids` do not end the completion; `stop_ids` do. Without effect on a `schema`."""
    schema: str | None = None
    """JSON Schema, as JSON text, that the completion's text conforms to; `{"type": "object"}`: any object.

    The text ends within `max_tokens`, an ending id included, if the shortest does; else it is cut there."""


class Token(NamedTuple):
    """A generated token."""

    id: int
    logprob: float
    """As in `Completion`."""
    top: tuple[tuple[int, float], ...] = ()
    """(id, log-probability) of the `Sampling.top_logprobs` most likely ids, the most likely first."""


@dataclass
class Completion:
    """The completion of one prompt.

    `logprobs[i]` is the natural-log probability of `ids[i]` under the model's distribution at the sampling
    temperature (at temperature 0: of the unscaled distribution), before top-p, top-k, min-p, penalties, bias
    and schema.
    """

    ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]
    tops: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    """`Token.top` of each id; empty unless `Sampling.top_logprobs` is set."""

    @property
    def tokens(self) -> list[Token]:
        tops = self.tops or [()] * len(self.ids)
        return [Token(*each) for each in zip(self.ids, self.logprobs, tops, strict=True)]


@dataclass(frozen=True)
class Event:
    """One token of a sequence in a batch, the ending id included."""

    handle: int
    id: int
    logprob: float
    """As in `Completion`."""
    finish_reason: Literal["stop", "length"] | None = None
    """Set with the last token of the sequence."""
    top: tuple[tuple[int, float], ...] = ()
    """As in `Token`."""

    @property
    def token(self) -> Token:
        return Token(self.id, self.logprob, self.top)


@dataclass(frozen=True)
class Limits:
    """What a running batch may hold; what exceeds it waits."""

    sequences: int = 256
    """Sequences at once."""
    memory: int | None = None
    """Bytes for keys and values: sequences × positions of the longest, its `max_tokens` included. None: a
    gibibyte (on a GPU three tenths of its memory), or what one sequence that fills the context needs."""
    prefixes: int = 0
    """Bytes for keys and values of sequences that have left: a prompt that begins as one does is read from
    where they part. Tokens are as without, log-probabilities up to rounding: matrix products of other sizes
    add in another order. 0: none are kept."""
    read_tokens: int = 2048
    """Prompt tokens that a step may read, so that long prompts do not hold up running sequences."""


class Batch(Protocol):
    """Sequences that enter and leave a running batch one by one."""

    prefixes: Prefixes
    """What is kept of sequences that have left."""

    @property
    def idle(self) -> bool:
        """Whether no sequence runs or waits."""
        ...

    def submit(
        self, prompt: list[int], sampling: Sampling, seed: int | None = None, *, said: Sequence[int] = ()
    ) -> int:
        """Queue a prompt. `seed` replaces `sampling.seed`. Returns the handle of its events.

        `said`: the ids that the completion already has, from the same prompt, settings and seed. It goes on
        behind them as if they had just been chosen. Returns 0, which has no events, if they are all of it.
        """
        ...

    def step(self) -> list[Event]:
        """Run the model once over all running sequences: at most one token of each."""
        ...

    def cancel(self, handle: int) -> None:
        """Drop a sequence, whether it waits or runs. One that has finished is ignored."""
        ...


class Tokens(Protocol):
    """The tokens of one sequence. `close` ends it before they are all taken."""

    def __iter__(self) -> Iterator[Token]: ...

    def __next__(self) -> Token: ...

    def close(self) -> None: ...


class Engine(Protocol):
    """Common interface of all backends."""

    tokenizer: PreTrainedTokenizerFast
    context: int
    """Maximum number of positions of prompt and completion together."""

    @property
    def backend(self) -> str:
        """What computes logits: `torch` or `openvino`."""
        ...

    @property
    def precision(self) -> str:
        """Type of the weights, as torch calls it: `float32`, `bfloat16`, `int8`."""
        ...

    def batch(self, limits: Limits | None = None) -> Batch:
        """An empty batch of its own; `generate` and `stream` use one for each call."""
        ...

    def generate(
        self, prompts: list[list[int]], sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> list[Completion]:
        """Complete a batch of prompts (each a list of at least one id).

        `seeds`, one per prompt, replace `sampling.seed`: each prompt is completed as if alone with its seed.
        """
        ...

    def stream(self, prompt: list[int], sampling: Sampling, said: Sequence[int] = ()) -> Tokens:
        """Each token as it is generated, including the ending id. `said`: as in `Batch.submit`."""
        ...

    def score(
        self, prompts: list[list[int]], completions: list[list[int]], *, temperature: float = 1.0
    ) -> list[list[float]]:
        """Per-token log-probabilities (nats) of given completions after their prompts."""
        ...

    def prepare(self, schema: str) -> None:
        """Compile a schema in this thread, so that the batch that follows it need not. Raises HeadwaterError
        as `Batch.submit` would."""
        ...

    def read(self, ids: list[int], top: int = 0) -> list[Token]:
        """The ids from the second on, each with its log-probability after those before it, and the `top`
        likeliest there."""
        ...
