"""Exact duplicates: the same text up to case, white space and Unicode form."""

from __future__ import annotations

import hashlib
import unicodedata

from headwater.cluster.runtime.stage import StageConfig


class ExactConfig(StageConfig):
    """Exact duplicates."""

    enabled: bool = True
    """Off: the step is passed over."""


def text_digest(text: str) -> bytes:
    """128 bits over the text in lower case, NFC, with single spaces."""
    plain = " ".join(unicodedata.normalize("NFC", text.lower()).split())
    return hashlib.blake2b(plain.encode(), digest_size=16).digest()
