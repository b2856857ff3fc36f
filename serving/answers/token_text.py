"""The text and the bytes of single tokens."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from headwater.data_pipeline.tokens.tokenizer import special_ids
from headwater.llm.inference.base import Token
from headwater.serving.answers.events import Spoken

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece spells a byte that no other token has."""
_known: WeakKeyDictionary[PreTrainedTokenizerFast, TokenTexts] = WeakKeyDictionary()


class TokenTexts:
    """The texts of a tokenizer's tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._special = frozenset(special_ids(tokenizer))
        self._by_bytes = "ByteLevel" in str(tokenizer.backend_tokenizer.decoder)
        self._tokens = tokenizer.convert_ids_to_tokens

    def data(self, token: int) -> bytes:
        """The UTF-8 of a token, which may be a part of a character; empty for an id without a token."""
        text = self._tokens(token)
        if not isinstance(text, str):
            return b""
        if token in self._special:
            return text.encode()
        if self._by_bytes:
            places = [_byte_of().get(letter) for letter in text]
            return text.encode() if None in places else bytes(p for p in places if p is not None)
        if match := _BYTE.fullmatch(text):
            return bytes([int(match.group(1), 16)])
        return text.replace("\u2581", " ").encode()

    def spoken(self, token: Token, *, first: bool = False) -> Spoken:
        """`first`: of a prompt, where no log-probability is known."""
        data = self.data(token.id)
        top = [(self.data(each), logprob) for each, logprob in token.top]
        return Spoken(
            token.id,
            _text(data),
            data,
            None if first else token.logprob,
            tuple((_text(each), each, logprob) for each, logprob in top),
        )


def texts_of(tokenizer: PreTrainedTokenizerFast) -> TokenTexts:
    if tokenizer not in _known:
        _known[tokenizer] = TokenTexts(tokenizer)
    return _known[tokenizer]


def spoken(tokenizer: PreTrainedTokenizerFast, tokens: Iterable[Token]) -> tuple[Spoken, ...]:
    texts = texts_of(tokenizer)
    return tuple(texts.spoken(token) for token in tokens)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


@functools.cache
def _byte_of() -> dict[str, int]:
    """The letter of each byte in the vocabulary of a byte-level BPE (Radford et al. 2019, `encoder.py`):
    printable characters stand for themselves, the others for those from U+0100 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
