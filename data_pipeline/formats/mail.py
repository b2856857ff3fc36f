"""Text of an e-mail message (RFC 5322, MIME): its plain text parts, else its HTML.

Attachments are left out. So are, unless asked for, quoted lines with the line that introduces them, and the
signature (RFC 3676, 4.3).
"""

from __future__ import annotations

import contextlib
import email.errors
import email.header
import email.utils
import re
from email.message import Message
from email.parser import BytesParser

from headwater.data_pipeline.formats.result import Converted, Unconvertible
from headwater.data_pipeline.text.charset import decode_declared, decode_html
from headwater.data_pipeline.text.main_text import page

FAULTS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RecursionError,
    email.errors.MessageError,
)
"""Exceptions of the `email` package for messages that do not follow the standards."""
QUOTED = re.compile(r"^[ \t]*>")
INTRODUCTION = re.compile(r"^\S.{0,200}:\s*$")
SIGNATURE = "-- "


def mail_text(content: bytes, max_characters: int, quotes: bool = False) -> Converted:
    """Raises Unconvertible: broken_message, no_text."""
    try:
        message = BytesParser().parsebytes(content)
        text = "\n\n".join(_texts(message))
        text = text if quotes else without_quotes(text)
        title, date = _header(message, "Subject"), _date(message)
        name = _header(message, "Message-ID").strip("<> ")
    except FAULTS as error:
        raise Unconvertible("broken_message", f"{type(error).__name__}: {error}") from error
    if not text.strip():
        raise Unconvertible("no_text", title or "no text of its own")
    return Converted(title, text[: max_characters + 1].strip("\n"), f"mid:{name}" if name else "", date)


def _texts(message: Message) -> list[str]:
    found: dict[str, list[str]] = {"text/plain": [], "text/html": []}
    for part in message.walk():
        kind = part.get_content_type()
        if kind in found and not part.is_multipart() and part.get_content_disposition() != "attachment":
            content = part.get_payload(decode=True)
            if isinstance(content, bytes):
                label = part.get_content_charset() or "utf-8"
                text = decode_declared(content, label)
                found[kind].append(decode_html(content) if text is None else text)
    if any(text.strip() for text in found["text/plain"]):
        return [text.replace("\r\n", "\n") for text in found["text/plain"]]
    return [page.fast_text(page.HTMLTree.parse(text), main_content=False) for text in found["text/html"]]


def without_quotes(text: str) -> str:
    """The text without quoted lines, the line that introduces them, and the signature."""
    kept: list[str] = []
    quoting = False
    for line in text.split("\n"):
        if line.rstrip("\r") == SIGNATURE:
            break
        if QUOTED.match(line):
            if not quoting:
                while kept and not kept[-1].strip():
                    kept.pop()
                if kept and INTRODUCTION.match(kept[-1]):
                    kept.pop()
            quoting = True
            continue
        quoting = quoting and not line.strip()
        kept.append(line)
    return "\n".join(kept)


def _header(message: Message, name: str) -> str:
    value = str(message.get(name, ""))
    with contextlib.suppress(*FAULTS):  # then it stays as it stands
        value = str(email.header.make_header(email.header.decode_header(value)))
    return " ".join(value.split())


def _date(message: Message) -> str:
    try:
        return email.utils.parsedate_to_datetime(str(message.get("Date", ""))).isoformat()
    except (*FAULTS, OverflowError):
        return ""
