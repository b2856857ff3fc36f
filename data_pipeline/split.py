"""Splits by one number in [0, 1) per document, which is the same in all stages and runs.

Splits are intervals of this number, so they nest: the validation documents of pretraining (the lowest
values) are among the documents whose prompts are held out from later training. A tokenizer trained on
a sample takes the highest values.
"""

from __future__ import annotations

import hashlib


def document_fraction(document_id: str) -> float:
    """Hash of the id, uniform over [0, 1) (48 bits)."""
    digest = hashlib.blake2b(document_id.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
