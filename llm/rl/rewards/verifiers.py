"""Rewards that a program can check. A verifier is a function of an answer, its completion and its task.

`rl.verifier` names one of `VERIFIERS`, or a function of a file of your own (`cluster/runtime/plugins.py`). A
verifier that raises has not judged the answer, which is then left out of its batch.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from headwater.llm.examples.tasks import Task
from headwater.llm.grounding.prompt import read_numbered
from headwater.llm.grounding.reward import reward
from headwater.llm.grounding.sentences import content_stems, content_words
from headwater.llm.inference.base import Completion
from headwater.llm.rl.rewards import sandbox

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
LENGTH = (4, 16)
"""Words of a newspaper headline."""
CONTENT = 3
"""Content words that say what an article is about."""


def headline(answer: str, completion: Completion, task: Task) -> float:
    """Score of a headline, 0 to 1: the number of its content words that the article has, over the number of
    all of them, but at least over `CONTENT`. An answer without the form of a headline scores 0.

    The form: it stops by itself; it has 4 to 16 words; no content word and no pair of neighbouring words
    stands in it twice, nor a word beside itself. So neither part pays alone: function words occur in every
    article, a list of the article's words can be endless, and two frequent words are in many articles.
    """
    words = [word.lower() for word in WORD.findall(answer)]
    content = content_words(answer)
    pairs = list(itertools.pairwise(words))
    known = content_stems(f"{task.reference} {task.context}")
    checks = (
        completion.finish_reason == "stop",
        LENGTH[0] <= len(words) <= LENGTH[1],
        len({*content}) == len(content) and len({*pairs}) == len(pairs) and all(a != b for a, b in pairs),
    )
    about = len(content_stems(answer) & known) / max(CONTENT, len(content))
    return all(checks) * about


NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def number(answer: str, completion: Completion, task: Task) -> float:
    """1 if the answer's final number equals the reference's, else 0.

    The final number follows the last `####` (GSM8K, Cobbe et al. 2021), else is the last one of the text;
    thousands separators and trailing zeros do not matter. An answer that was cut off scores 0.
    """
    if completion.finish_reason != "stop":
        return 0.0
    given, wanted = final_number(answer), final_number(task.reference)
    return float(given is not None and given == wanted)


def final_number(text: str) -> Decimal | None:
    found = NUMBER.findall(text.rpartition("####")[2])
    try:
        return Decimal(found[-1].replace(",", "")) if found else None
    except InvalidOperation:
        return None


def exact(answer: str, completion: Completion, task: Task) -> float:
    """1 if the answer equals the reference, apart from case and whitespace, else 0."""
    return float(answer.casefold().split() == task.reference.casefold().split())


def length(answer: str, completion: Completion, task: Task) -> float:
    """1 if the answer has no more words than the reference, else the reference's words over its own."""
    return min(1.0, len(task.reference.split()) / max(1, len(answer.split())))


def pattern(answer: str, completion: Completion, task: Task) -> float:
    """1 if the whole answer matches the reference, a regular expression; else 0.

    Raises regex.error for a reference that is none, TimeoutError if matching takes over a second.
    """
    import regex

    return float(regex.fullmatch(task.reference, answer.strip(), timeout=1.0) is not None)


FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)


def fenced(answer: str) -> str:
    """The last block of an answer between fences of three backticks, or all of it if there is none."""
    blocks = FENCED.findall(answer)
    return str(blocks[-1]) if blocks else answer


def json_schema(answer: str, completion: Completion, task: Task) -> float:
    """1 if the answer (`fenced`) is JSON that fits the reference, a JSON schema; else 0.

    Raises ValueError or jsonschema.SchemaError for a reference that is no schema.
    """
    import jsonschema  # comes with Ray

    validator = jsonschema.validators.validator_for(schema := json.loads(task.reference))
    validator.check_schema(schema)
    try:
        return float(validator(schema).is_valid(json.loads(fenced(answer))))
    except (ValueError, RecursionError):
        return 0.0


def code(answer: str, completion: Completion, task: Task) -> float:
    """1 if the reference, tests in Python, runs to its end after the answer (`fenced`); else 0.

    Both run in a process of their own with limits, see `sandbox.py`. Raises OSError if it does not start.
    """
    return float(sandbox.run(fenced(answer), task.reference).passed)


def citations(answer: str, completion: Completion, task: Task) -> float:
    """Score of an answer to a grounded task, 0 to 1, see `llm/grounding/reward.py`.

    The task's context is its numbered passages, its prompt ends with the question after a blank line. An
    answer that was cut off scores 0.
    """
    if completion.finish_reason != "stop":
        return 0.0
    question = task.prompt[-1]["content"].rpartition("\n\n")[2]
    return reward(question, answer, read_numbered(task.context), task.reference)


Verifier = Callable[[str, Completion, Task], float]
HEADLINE = "headline"
CITATIONS = "citations"
VERIFIERS: dict[str, Verifier] = {
    HEADLINE: headline,
    "number": number,
    "exact": exact,
    "length": length,
    "regex": pattern,
    "json_schema": json_schema,
    "code": code,
    CITATIONS: citations,
}
