"""Messages in the notations of several tools → checked messages of this project."""

from __future__ import annotations

from typing import Any

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.sources.items import encodable
from headwater.data_pipeline.tokens.chat_template import ROLES
from headwater.llm.examples.chat import check_messages
from headwater.llm.examples.conversations import Conversation

SPEAKERS = {"human": "user", "gpt": "assistant"} | {role: role for role in ROLES}
"""ShareGPT's `from` → role."""


class BadRecord(Exception):
    """A record that is skipped: a reason code such as `unknown_role`, and the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def messages_of(value: object) -> Conversation:
    """A list of `{"role", "content"}` or ShareGPT's `{"from", "value"}` as messages; empty system ones go.

    Raises BadRecord naming the message. A role that is not one of `ROLES` is never mapped.
    """
    if not isinstance(value, list) or not value:
        raise BadRecord("not_messages", "the messages are not a non-empty list")
    plain = [_plain(number, message) for number, message in enumerate(value, start=1)]
    try:
        checked = check_messages(plain)
    except HeadwaterError as error:
        raise BadRecord("bad_message", error.what) from error
    for number, message in enumerate(checked, start=1):
        if not message["content"].strip() and message["role"] != "system":
            raise BadRecord("empty_message", f"message {number} ({message['role']}) is empty")
        if not encodable(message["content"]):
            raise BadRecord("invalid_utf8", f"message {number} holds half of a character")
    return [message for message in checked if message["content"].strip()]


def _plain(number: int, message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    if message.get("role") is None and "from" in message:
        role, content = message["from"], message.get("value")
        found = SPEAKERS.get(role) if isinstance(role, str) else None
    else:
        role, content = message.get("role"), message.get("content")
        found = role if role in ROLES else None
    if found is None:
        raise BadRecord("unknown_role", f"message {number} has the role {role!r}")
    return {"role": found, "content": content}


def user(text: object) -> Conversation:
    return _one("user", text, "prompt")


def answer(text: object) -> Conversation:
    return _one("assistant", text, "answer")


def _one(role: str, text: object, called: str) -> Conversation:
    if isinstance(text, str) and not text.strip():
        raise BadRecord(f"empty_{called}", f"the {called} is empty")
    return messages_of([{"role": role, "content": text}])


def is_answered(talk: Conversation) -> bool:
    return any(message["role"] == "assistant" for message in talk)
