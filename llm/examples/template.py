"""A chat template as ids: what it writes around the contents of a conversation.

The tokenizer's own `chat_template` (Jinja) is rendered once for each sequence of roles, with a marker in
place of every content, and cut at the markers. Its pieces are encoded with their special tokens; contents
are encoded apart, as plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.tokens.chat_template import ROLES
from headwater.data_pipeline.tokens.tokenizer import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Piece = tuple[int, ...]

REMEMBERED = 4096
"""Sequences of roles whose pieces are kept per tokenizer; the oldest is forgotten first."""
OTHER_TEMPLATE = "set `base.chat_template` to another template"

_known: WeakKeyDictionary[PreTrainedTokenizerFast, dict[tuple[Any, ...], Any]] = WeakKeyDictionary()


def pieces(
    tokenizer: PreTrainedTokenizerFast, roles: Sequence[str], *, prompt: bool = False
) -> tuple[Piece, ...]:
    """What the template writes before, between and after the contents of these roles: one more than roles.

    With `prompt` the last piece opens the assistant's turn. The piece after an assistant's content begins
    with the special token that ends its turn. Raises HeadwaterError for a template that refuses these roles,
    drops or moves a content, or ends the assistant's turn with no special token.
    """
    template = _template(tokenizer)
    known = _known.setdefault(tokenizer, {})
    key = (template, tuple(roles), prompt)
    if key not in known:
        if len(known) >= REMEMBERED:
            del known[next(iter(known))]
        known[key] = _encoded(tokenizer, roles, _split(tokenizer, roles, prompt))
    return tuple(known[key])


def opening(tokenizer: PreTrainedTokenizerFast) -> Piece:
    """The prompt of an empty conversation: the header of the assistant's turn, after the template's first
    token if that begins every sequence."""
    plain, prompt = (_split(tokenizer, ["user"], prompt) for prompt in (False, True))
    if not prompt[-1].startswith(plain[-1]):
        raise HeadwaterError("the chat template opens no turn for the assistant", fix=OTHER_TEMPLATE)
    header = prompt[-1].removeprefix(plain[-1])
    begin = str(tokenizer.bos_token or "")
    # SmolLM2's beginning of a sequence is that of every turn, and so of the header.
    apart = plain[0].startswith(begin) and not header.startswith(begin)
    return _ids(tokenizer, begin + header if apart else header)


def turn_end(tokenizer: PreTrainedTokenizerFast) -> int:
    """The special token that ends the assistant's turn."""
    return pieces(tokenizer, ["user", "assistant"])[-1][0]


def _template(tokenizer: PreTrainedTokenizerFast) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise HeadwaterError(
            "the tokenizer has no chat template",
            where=str(tokenizer.name_or_path),
            fix="set `base.chat_template` to a Jinja file, or use a model that was trained on conversations",
        ) from error


def _split(tokenizer: PreTrainedTokenizerFast, roles: Sequence[str], prompt: bool) -> list[str]:
    """The template's text around the contents."""
    unknown = [role for role in roles if role not in ROLES]
    if unknown:
        raise HeadwaterError(f"unknown role {unknown[0]!r}", fix=f"use one of {', '.join(ROLES)}")
    markers = [f"⟦content {number}⟧" for number in range(len(roles))]
    messages = [{"role": role, "content": text} for role, text in zip(roles, markers, strict=True)]
    rest = render(tokenizer, messages, prompt=prompt)
    found = []
    for number, (role, marker) in enumerate(zip(roles, markers, strict=True), start=1):
        before, there, rest = rest.partition(marker)
        if not there or marker in rest:
            raise HeadwaterError(
                f"the chat template {'moves or drops' if not there else 'repeats'} message {number} of "
                f"{len(roles)} ({role})",
                fix=f"use conversations without such a message, or {OTHER_TEMPLATE}",
            )
        found.append(before)
    return [*found, rest]


def render(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Any],
    *,
    prompt: bool,
    tools: Sequence[Any] = (),
) -> str:
    """The conversation as the template writes it, with `tools` if it knows them. Raises HeadwaterError if the
    template refuses it."""
    from jinja2 import TemplateError

    try:
        # Without thinking, templates such as Qwen3's write a prompt with which the conversation begins.
        return str(
            tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=prompt,
                enable_thinking=False,
            )
        )
    except (TemplateError, TypeError, ValueError) as error:
        roles = [message["role"] for message in messages]
        system = "system" in roles
        raise HeadwaterError(
            f"the chat template refuses the roles {', '.join(roles)} ({error})",
            fix="put the system message's text into the first user message"
            if system
            else "let user and assistant take turns, the user first",
        ) from error


def _encoded(
    tokenizer: PreTrainedTokenizerFast, roles: Sequence[str], texts: Sequence[str]
) -> tuple[Piece, ...]:
    encoded = tuple(_ids(tokenizer, text) for text in texts)
    special = special_ids(tokenizer)
    for role, after in zip(roles, encoded[1:], strict=True):
        if role == "assistant" and (not after or after[0] not in special):
            raise HeadwaterError(
                "the chat template ends the assistant's turn with no special token: a model could not learn "
                "to stop",
                fix=OTHER_TEMPLATE,
            )
    return encoded


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> Piece:
    """Ids of the template's own text: what spells a special token is one."""
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"])
