"""Exact duplicates: equal texts up to case, white space and Unicode normalisation."""

from __future__ import annotations

import hashlib
import unicodedata

from headwater.cluster.runtime.stage import StageConfig


class ExactConfig(StageConfig):
    """Settings of exact deduplication."""

    enabled: bool = True
    """Run this step."""


def text_digest(text: str) -> bytes:
    """128-bit digest of the text in lower case and NFC, with single spaces."""
    plain = " ".join(unicodedata.normalize("NFC", text.lower()).split())
    return hashlib.blake2b(plain.encode(), digest_size=16).digest()
