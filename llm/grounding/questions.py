"""Questions that a claim answers, and claims in other words: by rules, or by a model and checked.

The prompts are few-shot conversations: a base model of a hundred million parameters follows examples better
than instructions.
"""

from __future__ import annotations

import re

from headwater.llm.grounding.agreement import fabricated
from headwater.llm.grounding.cite import support
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.sentences import FUNCTION_WORDS, content_stems

Messages = list[dict[str, str]]

QUESTION_WORDS = (5, 18)
IN_PASSAGE = 0.7
"""Minimum share of a question's content words that its passage or title has."""
SHARED = 2
"""Minimum number of content words that question and claim share, and that the claim adds to the question."""
_ASKS = re.compile(
    r"^(?:(?:in|at|on|for|from|to|by|with) )?(?:what|who|whom|whose|when|where|which|why|how)\b",
    re.IGNORECASE,
)
_NAME = re.compile(
    r"^(The )?((?:[A-Z][\w-]+ ){1,3}[A-Z][\w-]+) (?:also )?"
    r"(has|have|had|is|are|was|were|will|would|can|could|may|must|said|says|told|[a-z]+ed)\b"
)
_COUNT = re.compile(
    r"^(?:about |at least |more than |nearly |almost |some |up to |around )?"
    r"(?:\d[\d,.]*|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:dozen|hundred|thousand)s of)"
    r"(?: (?:million|billion|hundred|thousand|percent of))? "
    r"((?:[a-z-]+ ){0,2}(?:[a-z]+s|people|men|women|children) (?:were|are|have|had|will)\b[^,]{8,70}?)"
    r"(?: when| after| as| while| since| according|,|\.)",
    re.IGNORECASE,
)
_SAYING = frozenset({"said", "says", "told"})
_BEING = frozenset({"has", "have", "had", "is", "are", "was", "were"})
_ASK = "Write a short question that the sentence answers."
_REPHRASE = "Say the sentence in other words. Keep its names and numbers."
_BRIDGE = "The council voted on Tuesday to rebuild the old bridge near Leeds."
_SHELL = "Profits at Shell fell by 40 percent to 3.8 billion dollars in 2015."
_NURSE = "Maria Lopez, a nurse from Texas, was the first patient to receive the new vaccine."
# Each question names something, so that a search finds its passage: the model's own questions then do so too.
_QUESTIONS = (
    (_BRIDGE, "What did the council vote to rebuild near Leeds?"),
    (_SHELL, "How much did the profits at Shell fall in 2015?"),
    (_NURSE, "Which nurse from Texas was the first patient to receive the new vaccine?"),
)
_REPHRASED = (
    (_BRIDGE, "The old bridge near Leeds will be rebuilt, the council decided on Tuesday."),
    (_SHELL, "In 2015, Shell's profits dropped 40 percent to 3.8 billion dollars."),
)


def question_prompt(claim: str) -> Messages:
    """A conversation whose next answer is a question that the claim answers."""
    return _few_shot(_ASK, _QUESTIONS, claim)


def rephrase_prompt(claim: str) -> Messages:
    """A conversation whose next answer is the claim in other words."""
    return _few_shot(_REPHRASE, _REPHRASED, claim)


def _few_shot(task: str, examples: tuple[tuple[str, str], ...], claim: str) -> Messages:
    messages = []
    for sentence, answer in examples:
        messages.append({"role": "user", "content": f"{task}\nSentence: {sentence}"})
        messages.append({"role": "assistant", "content": answer})
    return [*messages, {"role": "user", "content": f"{task}\nSentence: {claim}"}]


def question_fault(question: str, passage: Passage, claim: str) -> str:
    """Why a written question is refused; empty if it is one, is about the passage, names something, and is
    left open without the claim."""
    low, high = QUESTION_WORDS
    words = content_stems(question)
    own, known = content_stems(claim), content_stems(f"{passage.title} {passage.text}")
    if not question.endswith("?") or question.count("?") > 1 or not _ASKS.match(question):
        return "no question"
    if not low <= len(question.split()) <= high:
        return "length"
    if not any(word[0].isupper() for word in question.split()[1:]):
        return "names nothing"
    if fabricated(question, [passage.title, passage.text]) or len(words & known) < IN_PASSAGE * len(words):
        return "not of the passage"
    if len(words & own) < SHARED:
        return "not of the claim"
    return "tells the claim" if len(own - words) < SHARED else ""


def rephrasing_fault(text: str, passage: Passage, claim: str) -> str:
    """Why another wording of a claim is refused; empty if it is one sentence that its passage supports, with
    no name or number of its own."""
    if text == claim:
        return "same words"
    if not text.endswith(".") or len(text.split()) > len(claim.split()) + 4:
        return "length"
    if support(text, [passage]) is None:
        return "unsupported"
    return "fabricated" if fabricated(text, [passage.title, passage.text]) else ""


def rule_question(claim: str) -> str:
    """A question about the number or the name that a claim begins with; empty if there is none.

    A name has two to four words and stands before the verb.
    """
    if counted := _COUNT.match(claim):
        return f"How many {counted.group(1)}?"
    found = _NAME.match(claim)
    if found is None or any(word.lower() in FUNCTION_WORDS for word in found.group(2).split()):
        return ""
    article, name, verb = found.groups(default="")
    name = article.lower() + name
    if verb in _SAYING:
        return f"What did {name} say?"
    return f"What is known about {name}?" if verb in _BEING else f"What is the news about {name}?"
