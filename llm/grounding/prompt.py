"""How a question is put to the model with its passages, and what is said when they have no answer.

Fine-tuning, reinforcement learning, evaluation and the endpoint's `write` mode all use this format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from headwater.llm.grounding.passages import Passage, title_line, without_control_tokens
from headwater.llm.grounding.sentences import words

NOTHING_FOUND = "I found nothing about this in my sources."
INSTRUCTION = "Answer the question from these sources."
FULL_INSTRUCTION = (
    "Answer the question in one short sentence, only from the numbered sources. End the sentence with the "
    "number of its source in brackets, such as [1]. If the sources do not answer the question, say only: "
    + NOTHING_FOUND
)
"""For a model that was not trained on the format."""
_OWN_SENTENCES = frozenset(
    " ".join(words(sentence))
    for text in (INSTRUCTION, FULL_INSTRUCTION, NOTHING_FOUND)
    for sentence in (text, *re.split(r"(?<=[.:]) ", text))
)
_BRACKETED = re.compile(r"[\[［【〔]\s*(\d{1,3})\s*[\]］】〕]")
_LINE_ENDS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_HEAD = re.compile(r"(?:^|\n\n)\[(\d+)\] (.*)\n")


def numbered(passages: Sequence[Passage], first: int = 1) -> str:
    """The passages as text: number (from `first` on) and title on a line, the passage below.

    What a page says cannot pass for another source: its numbers in brackets get round ones, its blank lines
    and what spells a control token go.
    """
    return "\n\n".join(
        f"[{n}] {_as_data(title_line(p.title))}\n{_as_data(p.text)}"
        for n, p in enumerate(passages, start=first)
    )


def _as_data(text: str) -> str:
    lines = _LINE_ENDS.sub("\n", without_control_tokens(text)).split("\n")
    return _BRACKETED.sub(r"(\1)", "\n".join(line for line in lines if line.strip()))


def repeats_instruction(sentence: str) -> bool:
    """Whether a sentence is one of the prompt's own, or the answer where nothing is found."""
    return " ".join(words(sentence)) in _OWN_SENTENCES


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
