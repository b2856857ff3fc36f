"""What a model knows, from several answers to the same question: the probing of Llama 3 (Grattafiori et al.
2024, section 4.3.6), which Karpathy's lectures recommend, with rules in the place of a model that judges.

An answer is right if it has the names, numbers and content words of the reference. It is refused if it says
that it does not know, and else a hallucination. A question is known if most sampled answers are right, and
unknown if none is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, cycle, islice
from typing import Any, Literal

from headwater.llm.grounding.agreement import fabricated, mentions
from headwater.llm.grounding.measures import Interval, bootstrap, is_refusal, wilson
from headwater.llm.grounding.reward import RELEVANT, overlap
from headwater.llm.grounding.sentences import stem
from headwater.llm.probes.facts import Fact

Verdict = Literal["right", "refused", "wrong"]
State = Literal["known", "unsure", "unknown"]
I_DO_NOT_KNOW = "I don't know."
KNOWN = 0.6
"""Share of right answers from which a question is known."""
REPEATS = 4
"""How often an example of the rarer kind is written at most."""


def verdict(answer: str, reference: str) -> Verdict:
    """An empty answer claims nothing, so it is a refusal."""
    if not answer.strip() or is_refusal(answer):
        return "refused"
    return "right" if mentions(answer, reference) else "wrong"


def alike(one: str, other: str, question: str) -> bool:
    """Whether two answers say the same: the same names and numbers beside the question's, or else, where
    neither has any, most of the same content words."""
    refused = [not text.strip() or is_refusal(text) for text in (one, other)]
    if any(refused):
        return all(refused)
    told = [{stem(token) for token in fabricated(f"it {text}", [question])} for text in (one, other)]
    return told[0] == told[1] if any(told) else overlap(one, other) >= RELEVANT


def consistency(answers: Sequence[str], question: str) -> float:
    """Share of the pairs of answers that are alike: self-consistency without a reference (Manakul et al.
    2023, SelfCheckGPT)."""
    pairs = [alike(one, other, question) for one, other in combinations(answers, 2)]
    return sum(pairs) / max(1, len(pairs))


@dataclass(frozen=True)
class Asked:
    """A question and what a model answered."""

    fact: Fact
    samples: list[str]
    answer: str = ""
    """The most likely answer; empty if it was not asked for."""

    @property
    def verdict(self) -> Verdict:
        return verdict(self.answer, self.fact.reference)

    @property
    def right(self) -> float:
        """Share of the sampled answers."""
        given = [verdict(text, self.fact.reference) for text in self.samples]
        return given.count("right") / len(given)

    @property
    def consistency(self) -> float:
        return consistency(self.samples, self.fact.question)

    @property
    def state(self) -> State:
        return "known" if self.right >= KNOWN else "unsure" if self.right else "unknown"

    def record(self) -> dict[str, Any]:
        """As a JSON object: the fact, the answers, and what was found."""
        found = {"verdict": self.verdict, "right": self.right, "consistency": self.consistency}
        return {
            **asdict(self.fact),
            "answer": self.answer,
            "samples": self.samples,
            **found,
            "state": self.state,
        }

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Asked:
        return cls(Fact(**{name: record[name] for name in FACT}), record["samples"], record["answer"])


FACT = tuple(Fact.__dataclass_fields__)


def measure(asked: Sequence[Asked], before: Sequence[Asked]) -> dict[str, Interval]:
    """Measures of the most likely answers, with 95 % intervals.

    `before`: the same questions to the model that the others are compared with. Shares of what it knew and
    did not know tell whether a model learnt to refuse only what it should.
    """
    given = [each.verdict for each in asked]
    known = [each.verdict for each, first in zip(asked, before, strict=True) if first.state == "known"]
    unknown = [each.verdict for each, first in zip(asked, before, strict=True) if first.state == "unknown"]
    return {
        "right": _share(given, "right"),
        "hallucinated": _share(given, "wrong"),
        "refused": _share(given, "refused"),
        "right_of_known": _share(known, "right"),
        "refused_of_known": _share(known, "refused"),
        "refused_of_unknown": _share(unknown, "refused"),
        "right_sampled": bootstrap([each.right for each in asked]),
        "consistency": bootstrap([each.consistency for each in asked]),
    }


def _share(verdicts: Sequence[Verdict], wanted: Verdict) -> Interval:
    return wilson(verdicts.count(wanted), len(verdicts))


def examples(asked: Sequence[Asked], system: str = "") -> list[dict[str, Any]]:
    """Conversations to fine-tune on: the reference to what is known, I_DO_NOT_KNOW to what is not.

    There are as many of both: the rarer are repeated up to REPEATS times, the rest of the others is left
    out. Questions between known and unknown teach nothing.
    """
    kinds = [
        [_example(each, system) for each in asked if each.state == state] for state in ("known", "unknown")
    ]
    if not all(kinds):
        return [*kinds[0], *kinds[1]]
    count = min(max(map(len, kinds)), REPEATS * min(map(len, kinds)))
    pairs = zip(*(islice(cycle(kind), count) for kind in kinds), strict=True)
    return [example for pair in pairs for example in pair]


def _example(asked: Asked, system: str) -> dict[str, Any]:
    answer = f"{asked.fact.reference.rstrip('.')}." if asked.state == "known" else I_DO_NOT_KNOW
    messages = [*asked.fact.prompt(system), {"role": "assistant", "content": answer}]
    return {"messages": messages, "document_id": asked.fact.document_id, "state": asked.state}
