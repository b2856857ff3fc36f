"""Documents → token ids, by the fastest encoder that gives the same ids as `tokenizers`.

gigatoken splits text with SIMD code instead of a regular expression and caches the ids of every piece: about
100 times the speed of `tokenizers` on one core. It is used for tokenizers of the kind that `tokens.tokenizer`
trains, for which tests compare both. Other tokenizers use `tokenizers`, which is logged. Text that spells a
special token is encoded as text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.data_pipeline.tokens.chat_template import DOCUMENT_END, PADDING, SPECIAL_TOKENS
from headwater.data_pipeline.tokens.packing import id_type
from headwater.data_pipeline.tokens.tokenizer import (
    SPLIT_PATTERN,
    document_end_id,
    load_encoder,
    load_tokenizer,
    padding_id,
)

if TYPE_CHECKING:
    from gigatoken import Tokenizer as FastTokenizer

REMEMBERED = 64 << 20
"""Characters after which gigatoken is reopened, because version 0.10.0 never evicts a piece: prose takes
less than one byte of memory per character, random letters ten."""

PRE_TOKENIZER: dict[str, Any] = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ],
}
PLAIN_BPE: dict[str, Any] = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "byte_fallback": False,
    "ignore_merges": False,
}


class Encoder:
    """One tokenizer folder, opened for encoding documents."""

    def __init__(self, folder: str | Path) -> None:
        self._exact = load_encoder(folder)
        self.vocab_size: int = 1 + max(self._exact.get_vocab().values())
        self.dtype = id_type(self.vocab_size)
        settings = json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf-8"))
        self._json = json.dumps(
            settings | {"added_tokens": []}
        )  # otherwise their spellings would be encoded as special tokens
        self._fast: FastTokenizer | None = None
        self._seen = 0
        other = unlike_ours(settings)
        self.end_id, self.pad_id = _end_and_padding(settings, folder)
        if other:
            logging.getLogger("headwater").info(
                "encoding with `tokenizers`, not gigatoken: the tokenizer in %s has %s", folder, other
            )
        else:
            self._open_fast()

    @property
    def fast(self) -> bool:
        """Whether gigatoken is used."""
        return self._fast is not None

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, uint16 or uint32 (`packing.id_type`)."""
        if self._fast is None:
            encodings = self._exact.encode_batch_fast(texts, add_special_tokens=False)
            return [np.array(encoding.ids, self.dtype) for encoding in encodings]
        ids = []
        for text in texts:
            if self._seen > REMEMBERED:
                self._open_fast()
            self._seen += len(text)
            ids.append(self._fast.encode(text).astype(self.dtype))
        return ids

    def _open_fast(self) -> None:
        import gigatoken

        self._fast = gigatoken.Tokenizer.from_json(self._json)
        self._seen = 0


def _end_and_padding(settings: Mapping[str, Any], folder: str | Path) -> tuple[int, int]:
    """Ids of the token that ends a document and of padding."""
    ids = {token["content"]: int(token["id"]) for token in settings["added_tokens"]}
    if tuple(ids) == SPECIAL_TOKENS:  # Headwater's own: saves a worker the seconds of importing transformers
        return ids[DOCUMENT_END], ids[PADDING]
    tokenizer = load_tokenizer(folder)
    return document_end_id(tokenizer), padding_id(tokenizer)


def unlike_ours(settings: Mapping[str, Any]) -> str | None:
    """How a `tokenizer.json` differs from those that Headwater trains; None if it does not."""
    from tokenizers.pre_tokenizers import ByteLevel

    model = settings["model"]
    if settings.get("normalizer") is not None:
        return "a normaliser"
    if settings.get("pre_tokenizer") != PRE_TOKENIZER:
        return "another pre-tokenizer"
    for key, value in PLAIN_BPE.items():
        if (model.get(key) or None) != (value or None):  # some files write no prefix as ""
            return f"{key} {model.get(key)!r} in its model"
    if not set(ByteLevel.alphabet()) <= model["vocab"].keys():
        return "no token for some bytes"
    if not all(token["special"] for token in settings.get("added_tokens", [])):
        return "added tokens that are not special"
    if settings.get("truncation") is not None or settings.get("padding") is not None:
        return "truncation or padding"
    return None
