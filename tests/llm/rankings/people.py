"""Scripted raters: people who follow a hidden rule, and some who do not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from headwater.llm.examples.rankings import Ranking

Rule = Callable[[str], float]
"""The hidden rule: how good an answer is."""
START = datetime(2030, 1, 1, tzinfo=UTC)
WORDS = ["river", "bridge", "council", "harvest", "planet", "nurse", "chess", "bakery", "rain", "vote"]


def short(answer: str) -> float:
    """The rule of these tests: shorter answers are better."""
    return -len(answer.split())


class People:
    """Rankings of answers with random lengths, one every minute."""

    def __init__(self, seed: int = 0, rule: Rule = short) -> None:
        self.random, self.rule, self.clock = random.Random(seed), rule, START

    def items(self, count: int) -> list[tuple[str, list[str]]]:
        """(question, two answers) that differ under the rule."""
        found = []
        while len(found) < count:
            answers = [self.answer(), self.answer()]
            if self.rule(answers[0]) != self.rule(answers[1]):
                found.append((f"What about the {self.answer()}?", answers))
        return found

    def answer(self) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randint(1, 9)))

    def rank(
        self,
        rater: str,
        items: list[tuple[str, list[str]]],
        right: float = 0.9,
        seconds: float = 60.0,
        first: bool = False,
    ) -> Iterator[Ranking]:
        """A rater who follows the rule with this probability: 0.5 is random, 0 inverted.

        `first`: always takes the answer that is shown first.
        """
        for question, pair in items:
            shown = self.random.sample(pair, 2)
            best = self.rule(shown[0]) > self.rule(shown[1])
            takes_first = first or best == (self.random.random() < right)
            self.clock += timedelta(seconds=seconds)
            yield Ranking(
                prompt=[{"role": "user", "content": question}],
                answers=[{"text": text} for text in shown],
                ranks=[1, 2] if takes_first else [2, 1],
                rater=rater,
                source="console",
                time=self.clock.isoformat(),
                blind=True,
            )
