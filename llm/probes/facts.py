"""Questions whose short answers stand in a document: names and numbers of its claims.

A claim is a sentence that can be understood alone (`grounding.claims`); the headline says what it is about.
By rules one of its names or numbers becomes a blank, or a number that opens it is asked for. A model writes
other questions, of which those are kept that ask for the one name or number that they do not tell.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from headwater.cluster.storage.artifact import Artifact
from headwater.llm.examples.conversations import Conversation, clean_title
from headwater.llm.grounding.agreement import fabricated
from headwater.llm.grounding.questions import Messages, question_fault, question_prompt, rule_question
from headwater.llm.grounding.tasks import Claim, claims_of

PASSAGE_WORDS = 80
"""Words of the passages that claims are looked for in."""
FACTS_PER_DOCUMENT = 2
KINDS = {"written": 0.4, "blank": 0.4, "count": 0.2}
"""Wanted shares of the kinds of questions."""
BLANK = "____"
ASKED = "Answer with a name or a number, in a few words."
_ITEM = re.compile(r"(?<=[ (])(?:\d[\d,.]*\d|\d|[A-Z][\w'-]+(?: [A-Z][\w'-]+)*)(?=[ .,;:)]|['’]s\b)")
_DATE = re.compile(
    r"^(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day$|^(?:January|February|March|April|May|June|July|August|"
    r"September|October|November|December)$"
)
_HOW_MANY = re.compile(r"^(?:(?:in|by|at) )?how (?:many|much|old|long|far)\b", re.IGNORECASE)
_WHO = re.compile(r"^(?:(?:in|at|from|to|for|by|with) )?(?:who|whom|whose|where|which)\b", re.IGNORECASE)

Write = Callable[[list[Messages]], list[str]]
"""A model's answers to prompts."""


@dataclass(frozen=True)
class Fact:
    """A question and its short answer."""

    question: str
    reference: str
    claim: str
    """The sentence of the document that says so; empty for a question of one's own."""
    document_id: str
    """Or `FILE:LINE`."""
    kind: str

    def prompt(self, system: str = "") -> Conversation:
        """The question alone, as a conversation; without passages."""
        content = f"{self.question}\n{ASKED}" if self.claim else self.question
        before = [{"role": "system", "content": system}] if system else []
        return [*before, {"role": "user", "content": content}]


def make_facts(
    documents: Iterable[Mapping[str, Any]], write: Write | None, count: int, seed: int
) -> tuple[list[Fact], dict[str, int]]:
    """Up to `count` facts, and counts of what was made, by kind. Deterministic for equal arguments.

    `write`: a model that writes questions; without one they are made by rules.
    """
    random = np.random.default_rng(seed)
    claims: list[Claim] = []
    for document in documents:
        found = [claim for claim in claims_of(document, PASSAGE_WORDS, 0) if _title(claim)]
        claims += [found[i] for i in random.permutation(len(found))[:FACTS_PER_DOCUMENT]]
        if len(claims) >= 2 * count:
            break
    written = write([question_prompt(claim.text) for claim in claims]) if write else [""] * len(claims)
    facts: list[Fact] = []
    made: Counter[str] = Counter()
    for claim, text in zip(claims, written, strict=True):
        possible = {fact.kind: fact for fact in (_written(claim, text), _blank(claim), _count(claim)) if fact}
        if possible and len(facts) < count:
            kind = min(possible, key=lambda name: made[name] / KINDS[name])
            facts.append(possible[kind])
            made[kind] += 1
    return facts, {"claims": len(claims), **made, "questions": len(facts)}


def _title(claim: Claim) -> str:
    return clean_title(claim.passage.title, claim.passage.url)


def _about(claim: Claim, question: str) -> str:
    """The question with the headline of its document, which says what it is about."""
    return f"From the article “{_title(claim)}”. {question}"


def _items(text: str) -> list[tuple[int, int]]:
    """Places of names and numbers that do not open the text; no weekdays and months."""
    found = [match.span() for match in _ITEM.finditer(text)]
    return [(start, end) for start, end in found if not _DATE.match(text[start:end])]


def _untold(text: str, known: Sequence[str]) -> bool:
    """Whether no word of a name or number is in the known texts."""
    return len(fabricated(f"it {text}", known)) == len(re.findall(r"\d[\d.,]*\d|[^\W_]+", text))


def _blank(claim: Claim) -> Fact | None:
    """A claim with a blank in the place of its last name or number that is told nowhere else."""
    text = claim.text
    for start, end in reversed(_items(text)):
        rest = f"{text[:start]}{BLANK}{text[end:]}"
        if _untold(text[start:end], [rest, _title(claim)]):
            question = _about(claim, f"Fill in the blank: {rest}")
            return Fact(question, text[start:end], text, claim.passage.document_id, "blank")
    return None


def _count(claim: Claim) -> Fact | None:
    """How many, for a claim that opens with a number."""
    question = rule_question(claim.text)
    told = fabricated(claim.text, [question, _title(claim)])
    if not question.startswith("How many") or not told or not claim.text.startswith(told[0]):
        return None
    return Fact(_about(claim, question), told[0], claim.text, claim.passage.document_id, "count")


def _written(claim: Claim, text: str) -> Fact | None:
    """A model's question, if it asks for the only name or number of the claim that it does not tell."""
    question = text.strip().split("\n")[0].strip()
    if question_fault(question, claim.passage, claim.text):
        return None
    items = [claim.text[start:end] for start, end in _items(claim.text)]
    items = [item for item in items if _untold(item, [question])]
    wanted = _HOW_MANY if items and items[0][0].isdigit() else _WHO
    if len(items) != 1 or not wanted.match(question):
        return None
    return Fact(question, items[0], claim.text, claim.passage.document_id, "written")


def write_facts(artifact: Artifact, split: str, facts: Iterable[Fact]) -> None:
    """Write `<split>.jsonl`: one fact a line."""
    lines = [json.dumps(asdict(fact), ensure_ascii=False) for fact in facts]
    artifact.write_bytes(f"{split}.jsonl", "".join(f"{line}\n" for line in lines).encode())


def read_facts(artifact: Artifact, split: str) -> list[Fact]:
    """The facts that `write_facts` wrote, in order."""
    lines = artifact.read_bytes(f"{split}.jsonl").decode().split("\n")
    return [Fact(**json.loads(line)) for line in lines if line]
