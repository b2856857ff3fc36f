"""What a record of each format means: conversations, and pairs of a better and a worse answer.

`messages`: OpenAI's and TRL's `{"messages": [{"role", "content"}]}`. `sharegpt`: `{"conversations":
[{"from", "value"}]}`. `alpaca`: `instruction`, `input`, `output`, `history`. `prompt_completion`: TRL's pairs
of texts or messages. `oasst`: trees (trees.py). `hh`: Anthropic's two transcripts. `preference`: `prompt`,
`chosen`, `rejected` as texts or messages, the prompt also as the common beginning of both, or as
`conversations` or `instruction`; `chosen_finish_reason` and `rejected_finish_reason` may say `length` of an
answer that was cut. All but `hh` and `oasst` take a `system` column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from headwater.llm.examples.conversations import Conversation
from headwater.llm.examples.own_data.messages import BadRecord, answer, messages_of, user
from headwater.llm.examples.own_data.trees import best_paths, ranked_pairs
from headwater.llm.examples.rankings import FINISH_REASONS

Pair = tuple[Conversation, str, str]
"""Prompt, better answer, worse answer."""

END_OF_TEXT = "<|endoftext|>"
"""Written at the end of completions by older tools. It is no text of the answer and is removed."""
ANSWER_COLUMNS = {"alpaca": "output", "prompt_completion": "completion"}
"""Columns without which a record is only a prompt."""

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \n]?")


class Fields:
    """A record whose parts are called by the names of `source.COLUMNS`."""

    def __init__(self, record: Mapping[str, Any], columns: Mapping[str, str]) -> None:
        self.record, self.columns = record, columns

    def get(self, part: str) -> Any:
        return self.record.get(self.columns.get(part, part))

    def has(self, *parts: str) -> bool:
        return all(self.get(part) is not None for part in parts)

    def need(self, part: str) -> Any:
        if (value := self.get(part)) is None:
            name = self.columns.get(part, part)
            there = ", ".join(key for key, value in self.record.items() if value is not None)
            raise BadRecord("missing_column", f"no `{name}` among {there or 'no columns'}")
        return value

    def text(self, part: str) -> str:
        """The text of a part, empty if it is missing."""
        value = self.get(part)
        if not isinstance(value, str | None):
            name = self.columns.get(part, part)
            raise BadRecord("not_text", f"`{name}` is of type {type(value).__name__}")
        return value or ""

    @property
    def system(self) -> list[dict[str, str]]:
        text = self.text("system")
        return [{"role": "system", "content": text}] if text.strip() else []


def guess(fields: Fields) -> str | None:
    """The format that a record's columns show; None if they show none."""
    prompt = fields.get("prompt")
    if fields.has("chosen", "rejected"):
        both = [fields.get("chosen"), fields.get("rejected")]
        transcripts = all(isinstance(text, str) and text.lstrip().startswith("Human:") for text in both)
        return "hh" if transcripts and prompt is None else "preference"
    if fields.has("messages"):
        return "messages"
    if fields.has("conversations"):
        return "sharegpt"
    if isinstance(prompt, dict) and "replies" in prompt:
        return "oasst"
    if fields.has("instruction", "output"):
        return "alpaca"
    return "prompt_completion" if prompt is not None else None


def talks_of(format: str, fields: Fields) -> list[Conversation]:
    """The conversations of a record; of a preference, the one with the better answer.

    They may lack an answer if the record does. Raises BadRecord.
    """
    return list(TALKS[format](fields))


def pairs_of(format: str, fields: Fields) -> list[Pair]:
    """The preference pairs of a record; none for a tree without ranks. Raises BadRecord."""
    pairs = list(PAIRS[format](fields))
    for prompt, better, worse in pairs:
        if better.strip() == worse.strip():
            raise BadRecord("equal_answers", "both answers are equal")
        if not prompt or prompt[-1]["role"] == "assistant":
            raise BadRecord("no_prompt", "the prompt does not end with a message of the user")
    return pairs


def reason_of(fields: Fields, side: str) -> str | None:
    """Why an answer of a pair ended, if the record tells. Raises BadRecord for an unknown word."""
    reason = fields.text(f"{side}_finish_reason")
    if reason and reason not in FINISH_REASONS:
        raise BadRecord(
            "unknown_finish_reason",
            f"`{side}_finish_reason` is {reason!r}, none of {', '.join(FINISH_REASONS)}",
        )
    return reason or None


def _messages(fields: Fields) -> Iterable[Conversation]:
    return [messages_of([*fields.system, *_list(fields.need("messages"))])]


def _sharegpt(fields: Fields) -> Iterable[Conversation]:
    return [messages_of([*fields.system, *_list(fields.need("conversations"))])]


def _alpaca(fields: Fields) -> Iterable[Conversation]:
    said = _instruction(fields)
    output = fields.text("output")
    return [[*said, *answer(output)] if fields.has("output") else said]


def _instruction(fields: Fields) -> Conversation:
    fields.need("instruction")
    said = _system(fields)
    for turn in fields.get("history") or []:
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise BadRecord("not_messages", "`history` is not a list of [question, answer]")
        said += [*user(turn[0]), *answer(turn[1])]
    parts = [fields.text("instruction").strip(), fields.text("input").strip()]
    return [*said, *user("\n\n".join(part for part in parts if part))]


def _prompt_completion(fields: Fields) -> Iterable[Conversation]:
    said = _prompt(fields)
    if not fields.has("completion"):
        return [said]
    completion = fields.get("completion")
    if isinstance(completion, str):
        return [[*said, *answer(completion.rstrip().removesuffix(END_OF_TEXT))]]
    return [[*said, *messages_of(completion)]]


def _prompt(fields: Fields) -> Conversation:
    prompt = fields.need("prompt")
    if isinstance(prompt, str):
        return [*_system(fields), *user(prompt)]
    return messages_of([*fields.system, *_list(prompt)])


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BadRecord("not_messages", f"not a list of messages but of type {type(value).__name__}")
    return value


def _preference(fields: Fields) -> Iterable[Pair]:
    better, worse = _side(fields, "chosen"), _side(fields, "rejected")
    if better[:-1] != worse[:-1]:
        raise BadRecord("different_prompts", "the two differ before their last answer")
    before = better[:-1]
    if before:  # the whole conversation is in both: a `prompt` column only repeats it
        prompt = before if before[0]["role"] == "system" else [*_system(fields), *before]
    elif fields.has("conversations"):
        prompt = messages_of([*fields.system, *_list(fields.get("conversations"))])
    elif fields.has("instruction"):
        prompt = _instruction(fields)
    else:
        prompt = _prompt(fields)
    return [(prompt, better[-1]["content"], worse[-1]["content"])]


def _side(fields: Fields, part: str) -> Conversation:
    value = fields.need(part)
    if isinstance(value, str):
        return answer(value)
    said = messages_of([value] if isinstance(value, dict) else value)
    if said[-1]["role"] != "assistant":
        raise BadRecord("no_answer", f"`{part}` does not end with a message of the assistant")
    return said


def _system(fields: Fields) -> Conversation:
    return messages_of(fields.system) if fields.system else []


def _hh(fields: Fields) -> Iterable[Pair]:
    better, worse = (_transcript(fields.need(part)) for part in ("chosen", "rejected"))
    if better[:-1] != worse[:-1]:
        raise BadRecord("different_prompts", "the two differ before their last answer")
    return [(better[:-1], better[-1]["content"], worse[-1]["content"])]


def _transcript(text: Any) -> Conversation:
    """`\\n\\nHuman: …\\n\\nAssistant: …` as messages, ending with the assistant's."""
    pieces = _TURN.split(text) if isinstance(text, str) else [""]
    if len(pieces) < 3 or pieces[0].strip():
        raise BadRecord("not_messages", "not a transcript of Human: and Assistant: turns")
    roles = {"Human": "user", "Assistant": "assistant"}
    said = messages_of(
        [
            {"role": roles[speaker], "content": content.strip()}
            for speaker, content in zip(pieces[1::2], pieces[2::2], strict=True)
        ]
    )
    if said[-1]["role"] != "assistant":
        raise BadRecord("no_answer", "the transcript does not end with the assistant")
    return said


def _better(pairs: Callable[[Fields], Iterable[Pair]]) -> Callable[[Fields], Iterable[Conversation]]:
    return lambda fields: [[*prompt, *answer(better)] for prompt, better, _ in pairs(fields)]


TALKS: dict[str, Callable[[Fields], Iterable[Conversation]]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "oasst": lambda fields: best_paths(fields.need("prompt")),
    "hh": _better(_hh),
    "preference": _better(_preference),
}
PAIRS: dict[str, Callable[[Fields], Iterable[Pair]]] = {
    "oasst": lambda fields: ranked_pairs(fields.need("prompt")),
    "hh": _hh,
    "preference": _preference,
}
