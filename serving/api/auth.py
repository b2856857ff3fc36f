"""API keys of the endpoint."""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from headwater.cluster.errors import HeadwaterError
from headwater.llm.examples.rankings import LOCAL_RATER
from headwater.serving.errors import ApiError

RANK = "rank"
"""The role of a key that may rank answers. Every key may chat."""
ROLES = frozenset({RANK})
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


@dataclass(frozen=True)
class Key:
    """One API key: its secret, the name of whoever has it, and what it may do besides chat."""

    secret: bytes = field(repr=False)
    name: str = ""
    roles: frozenset[str] = frozenset()


NO_KEY = Key(b"", LOCAL_RATER, ROLES)
"""Whoever calls an endpoint without keys, which only this machine reaches (`check_open`)."""


def read_keys(path: str) -> tuple[Key, ...]:
    """The keys of a file, one per line: `KEY [NAME [ROLE …]]`; empty lines and # comments are ignored.

    An empty path returns no keys: access is open. Raises HeadwaterError for an unreadable file, one without
    keys, and a line that is none of these, by its number: the line itself is secret.
    """
    if not path:
        return ()
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HeadwaterError(
            f"cannot read the API keys ({error})", where=path, fix="correct `api_keys`"
        ) from error
    keys = tuple(
        _key(line.split(), f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.startswith("#")
    )
    if not keys:
        raise HeadwaterError(
            "the file has no key", where=path, fix="write one key per line, or leave `api_keys` empty"
        )
    return keys


def _key(words: list[str], where: str) -> Key:
    secret, *rest = words
    name, roles = (rest[0], frozenset(rest[1:])) if rest else ("", frozenset[str]())
    if rest and not _NAME.fullmatch(name):
        raise HeadwaterError(
            "the name is not of letters, digits and . _ @ -", where=where, fix="write KEY NAME ROLE"
        )
    if unknown := sorted(roles - ROLES):
        raise HeadwaterError(
            f"there is no role {', '.join(unknown)}", where=where, fix=f"roles: {', '.join(sorted(ROLES))}"
        )
    return Key(secret.encode(), name, roles)


def check_open(host: str, keys_file: str) -> None:
    """Raises HeadwaterError where others reach the address (any but loopback) and no keys are asked for."""
    if not keys_file and not _is_loopback(host):
        raise HeadwaterError(
            "no API keys, and this address is open to the network",
            where=f"serve.host {host!r}",
            fix="set `serve.api_keys` to a file with one key a line, or listen on 127.0.0.1",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name, or empty: every address
        return False


def check_key(header: str | None, keys: tuple[Key, ...]) -> Key:
    """The key in the Authorization header; NO_KEY where none is asked for. Raises ApiError 401 otherwise.

    Every key is compared, each in constant time, to prevent timing attacks.
    """
    if not keys:
        return NO_KEY
    scheme, _, given = (header or "").partition(" ")
    token = given.strip().encode("utf-8", "surrogateescape")
    matches = [key for key in keys if hmac.compare_digest(token, key.secret)]
    if scheme.lower() != "bearer" or not matches:
        raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
    return matches[0]
