"""How a question is put to the model with its passages, and what is said when they have no answer.

Fine-tuning, reinforcement learning, evaluation and the endpoint's `write` mode all use this format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from headwater.llm.grounding.passages import Passage

NOTHING_FOUND = "I found nothing about this in my sources."
INSTRUCTION = "Answer the question from these sources."
FULL_INSTRUCTION = (
    "Answer the question in one short sentence, only from the numbered sources. End the sentence with the "
    "number of its source in brackets, such as [1]. If the sources do not answer the question, say only: "
    + NOTHING_FOUND
)
"""For a model that was not trained on the format."""
_HEAD = re.compile(r"(?:^|\n\n)\[(\d+)\] (.*)\n")


def numbered(passages: Sequence[Passage]) -> str:
    """The passages as text: number and title on a line, the passage below."""
    return "\n\n".join(f"[{n}] {p.title}\n{p.text}" for n, p in enumerate(passages, start=1))


def read_numbered(text: str) -> list[Passage]:
    """The passages (title and text alone) of a text with `numbered` ones in it, up to its end.

    A blank line and another number than the next one belong to a passage.
    """
    heads: list[re.Match[str]] = []
    for match in _HEAD.finditer(text):
        if int(match.group(1)) == len(heads) + 1:
            heads.append(match)
    ends = [*(head.start() for head in heads), len(text)][1:]
    return [
        Passage("", "", head.group(2), text[head.end() : end], 0, end - head.end())
        for head, end in zip(heads, ends, strict=True)
    ]


def with_sources(
    messages: Sequence[Mapping[str, str]], passages: Sequence[Passage], instruction: str = INSTRUCTION
) -> list[dict[str, str]]:
    """The messages, with the passages, numbered from 1, put before the last one's text."""
    *before, last = messages
    content = f"{instruction}\n\n{numbered(passages)}\n\n{last['content']}"
    return [*map(dict, before), {"role": last["role"], "content": content}]
