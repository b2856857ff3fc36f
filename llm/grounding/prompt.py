"""How a question is put to the model with its passages, and what is said when they have no answer.

Fine-tuning, reinforcement learning, evaluation and the endpoint's `write` mode all use this format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headwater.llm.grounding.passages import Passage

NOTHING_FOUND = "I found nothing about this in my sources."
INSTRUCTION = "Answer the question from these sources."


def with_sources(messages: Sequence[Mapping[str, str]], passages: Sequence[Passage]) -> list[dict[str, str]]:
    """The messages, with the passages, numbered from 1, put before the last one's text."""
    sources = "\n\n".join(f"[{n}] {p.title}\n{p.text}" for n, p in enumerate(passages, start=1))
    *before, last = messages
    content = f"{INSTRUCTION}\n\n{sources}\n\n{last['content']}"
    return [*map(dict, before), {"role": last["role"], "content": content}]
