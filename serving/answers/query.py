"""The question of a conversation, complete without what was said before: the query of the search."""

from __future__ import annotations

import re
from collections.abc import Sequence

from headwater.llm.grounding.sentences import content_stems, content_words

CARRIED_WORDS = 12
"""Content words that are taken over from the question before."""
_POINTS_BACK = re.compile(
    r"\b(?:it|its|he|him|his|she|her|hers|they|them|their|theirs|this|these|those|there|then|one|ones|both|"
    r"neither|same|former|latter)\b|\bthat\b(?=\s*(?:[?.!,]|$|happen|mean|is\b|was\b|did\b|does\b|end\b))",
    re.IGNORECASE,
)
_GOES_ON = re.compile(
    r"^\W*(?:and|but|so|or|also|then|why|how come|what about|how about|what else|who else|"
    r"where else|anything else|tell me more|more|go on|continue)\b",
    re.IGNORECASE,
)
_OWN_SUBJECT = 4
"""Content words from which a pronoun is taken to point within its own sentence."""


def standalone(questions: Sequence[str]) -> str:
    """The last of a user's messages; a follow-up question with the content words of what it follows.

    A question is a follow-up if it has a pronoun that points back and few content words, or goes on with
    "and", "what about" or "why" and has at most two, or has none. "And who leads it?" after "What is the
    news about the Mosul offensive?" gives "And who leads it? news Mosul offensive".
    """
    complete = ""
    for question in questions:
        complete = _complete(question.strip(), complete)
    return complete


def _complete(question: str, before: str) -> str:
    own = content_words(question)
    back = len(own) <= _OWN_SUBJECT and bool(_POINTS_BACK.search(question))
    on = len(own) <= 2 and bool(_GOES_ON.search(question))
    if not before or not (back or on or not own):
        return question
    has = content_stems(question)
    carried = [word for word in dict.fromkeys(content_words(before)) if not content_stems(word) & has]
    return " ".join([question, *carried[:CARRIED_WORDS]])
