"""API keys of the endpoint."""

from __future__ import annotations

import hmac
import ipaddress
from pathlib import Path

from headwater.cluster.errors import HeadwaterError
from headwater.serving.errors import ApiError


def read_keys(path: str) -> tuple[bytes, ...]:
    """The keys of a file, one per line; empty lines and lines that begin with # are ignored.

    An empty path returns no keys: access is open. Raises HeadwaterError for an unreadable file or one
    without keys.
    """
    if not path:
        return ()
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HeadwaterError(
            f"cannot read the API keys ({error})", where=path, fix="correct `api_keys`"
        ) from error
    keys = tuple(line.strip().encode() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise HeadwaterError(
            "the file has no key", where=path, fix="write one key per line, or leave `api_keys` empty"
        )
    return keys


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


def check_key(header: str | None, keys: tuple[bytes, ...]) -> None:
    """Raise ApiError 401 unless the Authorization header has one of the keys.

    Every key is compared, each in constant time, to prevent timing attacks.
    """
    if not keys:
        return
    scheme, _, given = (header or "").partition(" ")
    token = given.strip().encode("utf-8", "surrogateescape")
    matches = [hmac.compare_digest(token, key) for key in keys]
    if scheme.lower() != "bearer" or not any(matches):
        raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
