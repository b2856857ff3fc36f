"""One number in [0, 1) per document decides every split, in every stage, wherever and whenever it runs.

Because the splits are cuts of the same line they nest: the validation documents of pretraining
(the lowest share) lie within those whose prompts are held out of the later training, and a
tokenizer trained on a sample takes the highest share.
"""

from __future__ import annotations

import hashlib


def document_fraction(document_id: str) -> float:
    """A hash of the id, spread evenly over [0, 1) (48 bits)."""
    digest = hashlib.blake2b(document_id.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
