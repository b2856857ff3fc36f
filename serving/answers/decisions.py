"""What the model decides in the course of an answer: the ids of its tokens, the scores of sentences.

All else of an answer follows from these and the job. A replica that is given the decisions of another one,
which has died, makes the same events from them and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from headwater.llm.inference.base import Token


@dataclass(frozen=True)
class TokenChosen:
    choice: int
    token: Token


@dataclass(frozen=True)
class SentencesScored:
    scores: np.ndarray
    """[sentences], as `grounding.cite.quote_scores`."""


Decision = TokenChosen | SentencesScored


@dataclass
class Past:
    """What has been received of an answer."""

    events: int = 0
    """Number of its events."""
    tokens: dict[int, list[Token]] = field(default_factory=dict)
    """Of each choice."""
    scores: np.ndarray | None = None

    def add(self, decision: Decision) -> None:
        if isinstance(decision, TokenChosen):
            self.tokens.setdefault(decision.choice, []).append(decision.token)
        else:
            self.scores = decision.scores


class Decisions:
    """The decisions of one answer: those of its past are given again, new ones are told."""

    def __init__(
        self, past: Past | None = None, tell: Callable[[Decision], None] = lambda decision: None
    ) -> None:
        self._past, self._tell = past or Past(), tell

    def ids(self, choice: int) -> list[int]:
        """Those that a choice has so far."""
        return [token.id for token in self._past.tokens.get(choice, [])]

    def tokens(self, choice: int, coming: Iterable[Token]) -> Iterator[Token]:
        """The tokens of a choice from its first one on. `coming`: those after `ids`."""
        yield from self._past.tokens.get(choice, [])
        for token in coming:
            self._tell(TokenChosen(choice, token))
            yield token

    def scores(self, score: Callable[[], np.ndarray]) -> np.ndarray:
        if self._past.scores is not None:
            return self._past.scores
        scores = score()
        self._tell(SentencesScored(scores))
        return scores
