"""Encode conversations as token ids and a loss mask, by the tokenizer's own chat template.

A message is `{"role": "system" | "user" | "assistant", "content": str}`. Contents are stripped and encoded
apart from the template's text (`template.pieces`): text that spells a special token stays text, and the ids
of a prompt are a prefix of the ids of the conversation that it begins. Otherwise the ids equal those of
`apply_chat_template` on the stripped contents, which `check_template` verifies for a tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.tokens.chat_template import ROLES
from headwater.data_pipeline.tokens.tokenizer import document_end_id
from headwater.llm.examples.template import OTHER_TEMPLATE, Piece, opening, pieces, render, turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "EncodedConversations",
    "PromptTooLong",
    "TemplateCheck",
    "check_messages",
    "check_template",
    "decode_answer",
    "encode_answer",
    "encode_conversation",
    "encode_conversations",
    "encode_prompt",
    "encode_reply",
    "stop_ids",
]

Message = Mapping[str, str]


class PromptTooLong(HeadwaterError):
    """A prompt that does not fit, even with its messages of system and user emptied."""


PROBE: tuple[Message, ...] = (
    {"role": "user", "content": "What did the council decide in 2017?"},
    {"role": "assistant", "content": "To rebuild the bridge (40 m)."},
    {"role": "user", "content": "Why? It's old."},
    {"role": "assistant", "content": "«Too many cars», it said:\n\n- 3,000 a day"},
)
"""A conversation on which `check_template` compares ids."""
SYSTEM: Message = {"role": "system", "content": "Be brief."}


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


@dataclass(frozen=True)
class TemplateCheck:
    """What a chat template can do."""

    turn_end: str
    """The special token that ends the assistant's turn, which a model learns."""
    system: bool
    """Whether it takes system messages."""


def encode_conversation(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], max_length: int | None = None
) -> tuple[list[int], list[int]]:
    """Token ids and the loss mask: 1 on tokens to learn, 0 elsewhere.

    The assistant's tokens are learned, including the special token that closes the turn. A conversation over
    `max_length` loses the middle of its longest user or system message, then of the next longest, until it
    fits; the template and the assistant's text stay whole. If it is too long even with all of them empty,
    it is cut at its end, without a closing token, so that the model does not learn to stop there.
    Raises HeadwaterError if the template refuses the conversation.
    """
    if not messages:
        return [], []
    roles = [message["role"] for message in messages]
    first, *following = pieces(tokenizer, roles)
    contents = _contents(tokenizer, messages)
    if max_length is not None:
        _shorten(roles, contents, _length(first, contents, following) - max_length)
    ids, mask = [*first], [0] * len(first)
    for role, content, after in zip(roles, contents, following, strict=True):
        ids += [*content, *after]
        learnt = len(content) + 1 if role == "assistant" else 0  # the first token after it ends the turn
        mask += [1] * learnt
        mask += [0] * (len(ids) - len(mask))
    return ids[:max_length], mask[:max_length]


def encode_answer(tokenizer: PreTrainedTokenizerFast, content: str, *, cut: bool = False) -> list[int]:
    """Ids of the assistant's answer to a prompt: its stripped content, and the end of its turn unless it was
    cut before that."""
    return [*_text_ids(tokenizer, content.strip()), *([] if cut else [turn_end(tokenizer)])]


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
    """Ids of a prompt: the messages, then the header of the assistant's turn (alone without messages).

    A prompt over `max_length` loses its oldest turns, each a user's message with what follows it, but not
    system messages or the last turn; that is shortened as in `encode_conversation`. Raises PromptTooLong if
    it is still too long, and HeadwaterError if the template refuses the conversation.
    """
    roles, contents = [message["role"] for message in messages], _contents(tokenizer, messages)
    first, *following = pieces(tokenizer, roles, prompt=True) if messages else (opening(tokenizer),)
    if max_length is not None:
        while _length(first, contents, following) > max_length and (oldest := _oldest_turn(roles)):
            del roles[oldest], contents[oldest]
            first, *following = pieces(tokenizer, roles, prompt=True)
        _shorten(roles, contents, _length(first, contents, following) - max_length)
        length = _length(first, contents, following)
        if length > max_length:
            raise PromptTooLong(
                f"the prompt has {length} tokens, the limit is {max_length}",
                fix="shorten the conversation",
            )
    ids = [*first]
    for content, after in zip(contents, following, strict=True):
        ids += [*content, *after]
    return ids


def encode_reply(
    tokenizer: PreTrainedTokenizerFast, roles: Sequence[str], role: str, content: str
) -> list[int]:
    """Ids that follow the end of the assistant's turn: a message in reply, and the header of its next turn.

    `roles`: of the conversation up to that turn. A template that refuses `role` is given a user's message.
    """
    try:
        *_, between, after = pieces(tokenizer, [*roles, role], prompt=True)
    except HeadwaterError:
        known = ["user" if each == role else each for each in roles]
        *_, between, after = pieces(tokenizer, [*known, "user"], prompt=True)
    return [*between[1:], *_text_ids(tokenizer, content.strip()), *after]


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """The ids that end an answer: of a turn, of a document (for models that only saw documents), `eos_token`.

    A tokenizer without a chat template has no end of turn. Engines stop at all of them.
    """
    turns = [turn_end(tokenizer)] if tokenizer.chat_template else []
    ends = [*turns, document_end_id(tokenizer), tokenizer.eos_token_id]
    return tuple(dict.fromkeys(end for end in ends if isinstance(end, int)))


def decode_answer(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """The text of generated ids up to the first stop, without special tokens."""
    stops = set(stop_ids(tokenizer))
    end = next((position for position, token in enumerate(ids) if token in stops), len(ids))
    return str(tokenizer.decode(list(ids[:end]), skip_special_tokens=True)).strip()


def check_template(tokenizer: PreTrainedTokenizerFast) -> TemplateCheck:
    """What the tokenizer's chat template can do. Raises HeadwaterError if it cannot be trained with.

    It must take turns of user and assistant, keep every content, end the assistant's turn with a special
    token, and open it as it opens a prompt. The tokenizer must give the same ids for a conversation at once
    and piece by piece, which one with SentencePiece's dummy prefix does not.
    """
    _compare(tokenizer, PROBE)
    try:
        _compare(tokenizer, (SYSTEM, *PROBE))
    except HeadwaterError:
        system = False
    else:
        system = True
    return TemplateCheck(str(tokenizer.convert_ids_to_tokens(turn_end(tokenizer))), system)


def _compare(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> None:
    ids, _ = encode_conversation(tokenizer, messages)
    prompt = encode_prompt(tokenizer, messages[:-1])
    whole = render(tokenizer, messages, prompt=False)
    begun = render(tokenizer, messages[:-1], prompt=True)
    if not whole.startswith(begun + messages[-1]["content"]):
        raise HeadwaterError(
            "the chat template opens the assistant's turn in a prompt otherwise than in a conversation",
            fix=OTHER_TEMPLATE,
        )
    for found, text in ((ids, whole), (prompt, begun)):
        if found != tokenizer(text, add_special_tokens=False)["input_ids"]:
            raise HeadwaterError(
                "the tokenizer gives other ids for a message alone than within its conversation, for a dummy "
                "prefix of SentencePiece or a space that the template writes before it: not supported",
                fix="use a model with a byte-level tokenizer and a template with line breaks around messages",
            )


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


def _contents(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[list[int]]:
    return [_text_ids(tokenizer, message["content"].strip()) for message in messages]


def _length(first: Piece, contents: Sequence[Sequence[int]], following: Sequence[Piece]) -> int:
    return len(first) + sum(map(len, contents)) + sum(map(len, following))


def _oldest_turn(roles: Sequence[str]) -> slice | None:
    """The messages of the first turn, after the system's; None if no turn follows."""
    start = next((number for number, role in enumerate(roles) if role != "system"), len(roles))
    return next((slice(start, n) for n, role in enumerate(roles) if role == "user" and n > start), None)


def _shorten(roles: Sequence[str], contents: list[list[int]], excess: int) -> None:
    """Cut the middles of the longest messages that are not the assistant's until `excess` tokens are cut."""
    cuttable = [number for number, role in enumerate(roles) if role != "assistant"]
    for number in sorted(cuttable, key=lambda n: len(contents[n]), reverse=True):
        if excess <= 0:
            return
        content = contents[number]
        kept = max(0, len(content) - excess)
        excess -= len(content) - kept
        tail = kept // 2
        contents[number] = content[: kept - tail] + content[len(content) - tail :]


def _text_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
