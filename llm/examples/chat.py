"""Encode conversations as token ids and a loss mask.

A message is `{"role": "system" | "user" | "assistant", "content": str}`. Conversations are encoded segment by
segment: the ids of a prompt are always a prefix of the ids of the conversation that continues it, and text
that spells a special token stays text. Otherwise the ids equal those of the tokenizer's own
`apply_chat_template`, which would turn such text into special tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.tokens.chat_template import (
    CHAT_TEMPLATE,
    DOCUMENT_END,
    ROLES,
    TURN_END,
    TURN_START,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "CHAT_TEMPLATE",
    "EncodedConversations",
    "encode_conversation",
    "encode_conversations",
    "encode_prompt",
]

Message = Mapping[str, str]


@dataclass
class _Turn:
    """One message as ids: header and footer are never cut, the content may be."""

    header: list[int]
    content: list[int]
    footer: list[int]
    trained: bool

    def __len__(self) -> int:
        return len(self.header) + len(self.content) + len(self.footer)


@dataclass
class EncodedConversations:
    """The conversations that can be trained on, and counts of what was cut or dropped."""

    conversations: list[tuple[list[int], list[int]]]
    """(ids, loss mask) of each, in input order."""
    kept: list[int]
    """Input index of each."""
    shortened: int
    """Number of conversations whose prompt or answer was cut to fit."""
    dropped: int
    """Number of conversations with no token to learn: no assistant turn, or none within the length."""


def encode_conversation(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], max_length: int | None = None
) -> tuple[list[int], list[int]]:
    """Token ids and the loss mask: 1 on tokens to learn, 0 elsewhere.

    The assistant's tokens are learned, including the `<|im_end|>` that closes the turn. A conversation over
    `max_length` loses the middle of its longest user or system message, then of the next longest, until it
    fits; the template and the assistant's text stay whole. If it is too long even with all of them empty,
    it is cut at its end, without a closing token, so that the model does not learn to stop there.
    """
    turns = [_encode_turn(tokenizer, message) for message in messages]
    if max_length is not None:
        _shorten(turns, max_length)
    ids: list[int] = []
    mask: list[int] = []
    for turn in turns:
        ids += turn.header + turn.content + turn.footer
        learnt = len(turn.content) + 1 if turn.trained else 0  # the footer is <|im_end|> and a line break
        mask += [0] * len(turn.header) + [1] * learnt
        mask += [0] * (len(ids) - len(mask))
    return ids[:max_length], mask[:max_length]


def encode_conversations(
    tokenizer: PreTrainedTokenizerFast, conversations: Iterable[Sequence[Message]], max_length: int
) -> EncodedConversations:
    """Encode many conversations; those with nothing to learn are dropped and counted."""
    encoded = EncodedConversations([], [], 0, 0)
    for number, messages in enumerate(conversations):
        ids, mask = encode_conversation(tokenizer, messages)
        if len(ids) > max_length:
            encoded.shortened += 1
            ids, mask = encode_conversation(tokenizer, messages, max_length)
        if any(mask):
            encoded.conversations.append((ids, mask))
            encoded.kept.append(number)
        else:
            encoded.dropped += 1
    return encoded


def encode_prompt(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], max_length: int | None = None
) -> list[int]:
    """Ids of a prompt: the messages, then the header of the assistant's turn.

    A prompt over `max_length` is shortened as in `encode_conversation`. Raises HeadwaterError if that fails.
    """
    turns = [_encode_turn(tokenizer, message) for message in messages]
    opening = _header(tokenizer, "assistant")
    if max_length is not None:
        _shorten(turns, max_length - len(opening))
        length = sum(map(len, turns)) + len(opening)
        if length > max_length:
            raise HeadwaterError(
                f"the prompt has {length} tokens, the limit is {max_length}",
                fix="shorten the conversation",
            )
    return [token for turn in turns for token in turn.header + turn.content + turn.footer] + opening


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """The ids that end an answer: end of turn, and end of document (for models that only saw documents)."""
    return (_id(tokenizer, TURN_END), _id(tokenizer, DOCUMENT_END))


def decode_answer(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """The text of generated ids up to the first stop, without special tokens."""
    stops = set(stop_ids(tokenizer))
    end = next((position for position, token in enumerate(ids) if token in stops), len(ids))
    return str(tokenizer.decode(list(ids[:end]), skip_special_tokens=True)).strip()


def check_messages(messages: object) -> list[dict[str, str]]:
    """The messages of a valid conversation. Raises HeadwaterError that names the faulty message."""
    if not isinstance(messages, list) or not messages:
        raise HeadwaterError("`messages` is not a non-empty list")
    checked = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            raise HeadwaterError(f"message {number} is not an object with `role` and `content`")
        if message.get("role") not in ROLES:
            raise HeadwaterError(
                f"message {number} has the role {message.get('role')!r}", fix=f"use one of {', '.join(ROLES)}"
            )
        content = _plain_text(message.get("content"))
        if content is None:
            raise HeadwaterError(
                f"the content of message {number} is not text", fix="give a string, or a list of text parts"
            )
        checked.append({"role": message["role"], "content": content})
    return checked


def _plain_text(content: object) -> str | None:
    """A string, or the joined parts `{"type": "text", "text" or "value": str}` of other chat formats."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            return None
        text = part.get("text", part.get("value"))
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "".join(texts)


def _encode_turn(tokenizer: PreTrainedTokenizerFast, message: Message) -> _Turn:
    return _Turn(
        header=_header(tokenizer, message["role"]),
        content=_text_ids(tokenizer, message["content"].strip()),
        footer=[_id(tokenizer, TURN_END), *_text_ids(tokenizer, "\n")],
        trained=message["role"] == "assistant",
    )


def _header(tokenizer: PreTrainedTokenizerFast, role: str) -> list[int]:
    if role not in ROLES:
        raise HeadwaterError(f"unknown role {role!r}", fix=f"use one of {', '.join(ROLES)}")
    return [_id(tokenizer, TURN_START), *_text_ids(tokenizer, f"{role}\n")]


def _shorten(turns: Sequence[_Turn], max_length: int) -> None:
    """Cut the middles of the longest messages that are not the assistant's until all fit."""
    excess = sum(map(len, turns)) - max_length
    cuttable = sorted(
        (turn for turn in turns if not turn.trained), key=lambda t: len(t.content), reverse=True
    )
    for turn in cuttable:
        if excess <= 0:
            return
        kept = max(0, len(turn.content) - excess)
        excess -= len(turn.content) - kept
        tail = kept // 2
        turn.content = turn.content[: kept - tail] + turn.content[len(turn.content) - tail :]


def _text_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or found == tokenizer.unk_token_id:
        raise HeadwaterError(f"the tokenizer has no {token}", fix="use a tokenizer with ChatML tokens")
    return found
