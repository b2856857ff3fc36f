"""Exact duplicates: the same text up to case, white space and Unicode form."""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np

from cluster.stage import StageConfig
from data_pipeline.dedup.survivors import Candidates, keep_best


class ExactConfig(StageConfig):
    """Exact duplicates."""

    enabled: bool = True
    """Off: the step is passed over."""


def text_digest(text: str) -> bytes:
    """128 bits over the text in lower case, NFC, with single spaces."""
    plain = " ".join(unicodedata.normalize("NFC", text.lower()).split())
    return hashlib.blake2b(plain.encode(), digest_size=16).digest()


def exact_duplicates(candidates: Candidates, digests: np.ndarray) -> np.ndarray:
    """For each document the row of the one that is kept in its place, or -1. `digests` is uint64 [N, 2]."""
    _, groups = np.unique(digests, axis=0, return_inverse=True)
    return keep_best(candidates, groups.reshape(-1))
