"""API keys of the endpoint. Only their hashes are kept in memory, and in a file if it has these.

A key is long and random, so that one round of SHA-256 hides it: nobody can try all of them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from headwater.cluster.errors import HeadwaterError
from headwater.llm.examples.rankings import LOCAL_RATER
from headwater.serving.api.limits import is_loopback
from headwater.serving.errors import ApiError

RANK = "rank"
"""The role of a key that may rank answers. Every key may chat."""
ADMIN = "admin"
"""The role of a key that may add and delete documents, and look at the store in the console."""
ROLES = frozenset({RANK, ADMIN})
NAME = re.compile(r"^[A-Za-z0-9._@-]{1,64}$")
"""Of whoever has a key, and of a rater."""


@dataclass(frozen=True)
class Limits:
    """What one key may use; None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    """Days are those of UTC."""

    def or_else(self, defaults: Limits) -> Limits:
        """These, and the defaults where there is none."""
        return Limits(*(_either(getattr(self, name), getattr(defaults, name)) for name in LIMITS))

    def words(self) -> list[str]:
        """As a line of a file of keys has them."""
        return [f"{name}={most}" for name in LIMITS if (most := getattr(self, name)) is not None]


LIMITS = tuple(Limits.__dataclass_fields__)
"""Names of the limits."""


def _either(own: int | None, default: int | None) -> int | None:
    return default if own is None else own


@dataclass(frozen=True)
class Key:
    """One API key: its hash, the name of whoever has it, what it may do besides chat, and how much."""

    digest: bytes = field(repr=False)
    """SHA-256."""
    name: str = ""
    roles: frozenset[str] = frozenset()
    limits: Limits = Limits()

    @property
    def id(self) -> str:
        """The beginning of its hash: names a key without telling it."""
        return self.digest.hex()[:12]


HASHED = "sha256:"
"""Before the hash of a key, in hexadecimal digits, in a file of keys."""
NO_KEY = Key(b"", LOCAL_RATER, ROLES)
"""Whoever calls an endpoint without keys, which only this machine reaches (`check_open`)."""


def read_keys(path: str) -> tuple[Key, ...]:
    """The keys of a file, one per line: `KEY [NAME [ROLE …] [LIMIT=NUMBER …]]`; empty lines and # comments
    are ignored. LIMIT is a field of `Limits`.

    `sha256:HASH` for KEY keeps the key itself out of the file.

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
    name, given = (rest[0], rest[1:]) if rest else ("", [])
    roles = frozenset(word for word in given if "=" not in word)
    if rest and not NAME.fullmatch(name):
        raise HeadwaterError(
            "the name is not of letters, digits and . _ @ -", where=where, fix="write KEY NAME ROLE"
        )
    if unknown := sorted(roles - ROLES):
        raise HeadwaterError(
            f"there is no role {', '.join(unknown)}", where=where, fix=f"roles: {', '.join(sorted(ROLES))}"
        )
    limits = _limits([word for word in given if "=" in word], where)
    if not secret.startswith(HASHED):
        return Key(_digest(secret.encode()), name, roles, limits)
    try:
        digest = bytes.fromhex(secret.removeprefix(HASHED))
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise HeadwaterError(
            f"after `{HASHED}` there are not 64 hexadecimal digits", where=where, fix="headwater key NAME"
        )
    return Key(digest, name, roles, limits)


def _limits(words: list[str], where: str) -> Limits:
    found: dict[str, int] = {}
    for word in words:
        name, _, most = word.partition("=")
        if name not in LIMITS or not (most.isascii() and most.isdigit() and int(most)):
            raise HeadwaterError(
                f"`{word[:60]}` is no limit",
                where=where,
                fix=f"limits: {', '.join(LIMITS)}",
            )
        found[name] = int(most)
    return Limits(**found)


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def new_key(name: str, words: Iterable[str]) -> tuple[str, str]:
    """A new key, and its line for a file of keys. `words`: its roles and limits, as in the file.

    Raises HeadwaterError for a wrong name, role or limit.
    """
    secret = f"hw-{secrets.token_urlsafe(32)}"
    line = [f"{HASHED}{_digest(secret.encode()).hex()}", name, *words]
    _key(line, "headwater key")
    return secret, " ".join(line)


def check_open(host: str, keys_file: str) -> None:
    """Raises HeadwaterError where others reach the address (any but loopback) and no keys are asked for."""
    if not keys_file and not is_loopback(host):
        raise HeadwaterError(
            "no API keys, and this address is open to the network",
            where=f"serve.host {host!r}",
            fix="set `serve.api_keys` to a file with one key a line, or listen on 127.0.0.1",
        )


def check_key(header: str | None, keys: tuple[Key, ...]) -> Key:
    """The key in the Authorization header; NO_KEY where none is asked for. Raises ApiError 401 otherwise.

    Every key is compared, each in constant time, to prevent timing attacks.
    """
    if not keys:
        return NO_KEY
    scheme, _, given = (header or "").partition(" ")
    token = given.strip().encode("utf-8", "surrogateescape")
    digest = _digest(token)
    matches = [key for key in keys if hmac.compare_digest(digest, key.digest)]
    if scheme.lower() != "bearer" or not matches:
        raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
    return matches[0]


def check_role(key: Key, role: str) -> None:
    """Raises ApiError 403 unless the key has the role."""
    if role not in key.roles:
        raise ApiError(403, f"This API key has not the role `{role}`.", code="not_allowed")
