"""Words of a text as datatrove counts them, and as fast as memory: spaCy's English tokens.

spaCy cuts a text at white space and tokenizes each chunk by itself, so a chunk that was seen before
need not be tokenized again: a text becomes numbers of known chunks, and those become numbers of
words. The one rule of spaCy that looks across white space (a special case such as `8)`, whose
tokens may be matched with a space between them, and then keep a neighbour's from being matched) is
watched for, and such a text goes through spaCy whole.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.filters import counting
from data_pipeline.filters.marks import PUNCTUATION

LEFT, RIGHT = 1, 2
"""Flags of a chunk: its last token begins, or its first token ends, a pair inside a special case."""
AROUND = 16
"""Chunks on each side that are looked at together where such a pair meets. No special case is that long."""
LONG, PIECE = 1000, 64
"""spaCy takes marks off a chunk one by one and looks at all of it each time: thousands of quotation marks
would take minutes. A longer chunk of which a third are marks is tokenized in pieces of so many characters."""
MARKS_TAKEN_OFF = re.compile(r"[^\w.-]|_")
NO_EDGES = (frozenset[str](), frozenset[str]())


@dataclass(frozen=True)
class WordIds:
    """The words of one text as rows of the vocabulary's tables."""

    ids: np.ndarray
    """int32 [N]"""
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """int32 [V], characters of every word of the vocabulary."""
        return self.vocabulary.lengths.values

    @property
    def flags(self) -> np.ndarray:
        """uint8 [V], counting.SOLID and its like."""
        return self.vocabulary.flags.values

    @property
    def hashes(self) -> np.ndarray:
        """uint64 [V], of each word's characters."""
        return self.vocabulary.hashes.values

    @property
    def powers(self) -> np.ndarray:
        """uint64 [V], counting.BASE to the power of each word's length."""
        return self.vocabulary.powers.values

    def strings(self) -> list[str]:
        names = self.vocabulary.names
        return [names[word] for word in self.ids.tolist()]

    def distinct(self, words: Iterable[str]) -> int:
        """How many of these words occur."""
        rows = (self.vocabulary.rows.get(word) for word in words)
        return sum(row is not None and bool((self.ids == row).any()) for row in rows)


class Vocabulary:
    """Every chunk and word that was met, in tables that compiled functions can read. They only grow."""

    def __init__(self) -> None:
        import spacy
        from spacy.tokenizer import Tokenizer

        language: Any = spacy.blank("en")
        language.max_length = 1 << 30
        self._enders = frozenset(language.add_pipe("sentencizer").punct_chars)
        self._language, self._tokenizer = language, language.tokenizer
        t = self._tokenizer
        self._plain = Tokenizer(
            language.vocab,
            rules={},
            prefix_search=t.prefix_search,
            suffix_search=t.suffix_search,
            infix_finditer=t.infix_finditer,
            token_match=t.token_match,
            url_match=t.url_match,
        )
        self._cases = frozenset(t.rules)
        self._pairs = self._pairs_of_special_cases()
        self._lefts, self._rights = (frozenset(side) for side in zip(*self._pairs, strict=True))
        self._chunks = _Chunks(self._add)
        self.rows: dict[str, int] = {}
        self.names: list[str] = []
        self._edges: list[tuple[frozenset[str], frozenset[str]]] = []
        self._chunk_texts: list[str] = []
        self._offsets, self._of_chunks = _Growing(np.int64), _Growing(np.int32)
        self._offsets.append(0)
        self._chunk_flags = _Growing(np.uint8)
        self.lengths, self.flags = _Growing(np.int32), _Growing(np.uint8)
        self.hashes, self.powers = _Growing(np.uint64), _Growing(np.uint64)
        self._bytes, self._byte_offsets = _Growing(np.uint8), _Growing(np.int64)
        self._byte_offsets.append(0)

    def _pairs_of_special_cases(self) -> frozenset[tuple[str, str]]:
        """Neighbours within the special cases that spaCy looks for in a whole text."""
        t, pairs = self._tokenizer, set[tuple[str, str]]()
        for case in self._cases:
            if t.find_prefix(case) or t.find_infix(case) or t.find_suffix(case) or " " in case:
                tokens = [token.text for token in self._plain(case)]
                pairs.update(itertools.pairwise(tokens))
        return frozenset(pairs)

    def __len__(self) -> int:
        """Chunks in memory."""
        return len(self._chunks)

    # -- words ---------------------------------------------------------------------------------
    def words(self, text: str) -> WordIds:
        chunks = self.chunk_ids(text.split())
        if self.crosses(chunks):
            strings = [token.text for token in self._tokenizer(text)]
            rows = [self._row(word) for word in strings if word.strip()]
            return WordIds(np.array(rows, np.int32), self)
        return self._expand(chunks)

    def chunk_ids(self, chunks: list[str]) -> np.ndarray:
        """int32 [N], for pieces of text without white space."""
        return np.fromiter(map(self._chunks.__getitem__, chunks), np.int32, len(chunks))

    def crosses(self, chunks: np.ndarray) -> bool:
        """Somewhere spaCy makes other words of these chunks together than of each by itself."""
        for place in counting.candidates(chunks, self._chunk_flags.values, LEFT, RIGHT).tolist():
            lefts, rights = self._edges[chunks[place]][1], self._edges[chunks[place + 1]][0]
            if any((left, right) in self._pairs for left in lefts for right in rights):
                near = chunks[max(0, place - AROUND) : place + AROUND]
                together = [token.text for token in self._tokenizer(" ".join(self._texts(near)))]
                if together != self._expand(near).strings():
                    return True
        return False

    def _expand(self, chunks: np.ndarray) -> WordIds:
        return WordIds(counting.expand(chunks, self._offsets.values, self._of_chunks.values), self)

    def _texts(self, chunks: np.ndarray) -> list[str]:
        return [self._chunk_texts[chunk] for chunk in chunks.tolist()]

    # -- sentences -----------------------------------------------------------------------------
    def sentences(self, lines: list[str]) -> int:
        """Sentences of all lines together, each line by itself, as spaCy's sentencizer finds them."""
        total, regular, ends = 0, [], []
        for line in lines:
            chunks = line.split()
            if not chunks or " ".join(chunks) != line:
                total += self._sentences_by_spacy(line)  # further white space is a token of its own
            else:
                regular += chunks
                ends.append(len(regular))
        ids = self.chunk_ids(regular)
        if self.crosses(ids):  # rare: so the pairs need not be told from those across lines
            return sum(map(self._sentences_by_spacy, lines))
        counted = counting.sentences(
            ids, np.array(ends, np.int64), self._offsets.values, self._of_chunks.values, self.flags.values
        )
        return total + int(counted)

    def _sentences_by_spacy(self, line: str) -> int:
        """A line without any sentence still counts as one: datatrove cuts it at none, so it is one piece."""
        return max(1, sum(1 for _ in self._language(line).sents))

    def bytes(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [V + 1] offsets, and all words in UTF-8, one behind the other."""
        return self._byte_offsets.values, self._bytes.values

    # -- tables --------------------------------------------------------------------------------
    def _add(self, chunk: str) -> int:
        if len(chunk) > LONG and len(MARKS_TAKEN_OFF.findall(chunk)) > len(chunk) / 3:
            pieces = [chunk[start : start + PIECE] for start in range(0, len(chunk), PIECE)]
            tokens = plain = [token.text for piece in pieces for token in self._tokenizer(piece)]
        elif chunk.isascii() and chunk.isalpha() and chunk not in self._cases:
            tokens = plain = [chunk]  # no affix is made of letters alone: spared the way through spaCy
        else:
            tokens = [token.text for token in self._tokenizer(chunk)]
            # What spaCy compares are the tokens before special cases: edges with and without are watched.
            plain = [token.text for token in self._plain(chunk)]
        for token in tokens:
            self._of_chunks.append(self._row(token))
        self._offsets.append(self._of_chunks.count)
        first, last = frozenset((tokens[0], plain[0])), frozenset((tokens[-1], plain[-1]))
        flags = LEFT * (not last.isdisjoint(self._lefts)) + RIGHT * (not first.isdisjoint(self._rights))
        self._chunk_flags.append(flags)
        self._edges.append((first, last) if flags else NO_EDGES)
        self._chunk_texts.append(chunk)
        return self._chunk_flags.count - 1

    def _row(self, word: str) -> int:
        row = self.rows.get(word)
        if row is None:
            row = self.rows[word] = len(self.names)
            self.names.append(word)
            self.lengths.append(len(word))
            self.flags.append(
                counting.SOLID * (not PUNCTUATION.issuperset(word))
                + counting.LETTERS * any(map(str.isalpha, word))
                + counting.ENDS * (word in self._enders)
                + counting.MARK * self._language.vocab[word].is_punct
            )
            value, power = counting.hash_word(np.array(list(map(ord, word)), np.uint32))
            self.hashes.append(value)
            self.powers.append(power)
            self._bytes.extend(word.encode("utf-8", "surrogatepass"))
            self._byte_offsets.append(self._bytes.count)
        return row


class _Chunks(dict[str, int]):
    """Chunk → its number; one that is new is added."""

    def __init__(self, add: object) -> None:
        super().__init__()
        self._add = add

    def __missing__(self, chunk: str) -> int:
        number = self[chunk] = self._add(chunk)  # type: ignore[operator]
        return number


class _Growing:
    """A numpy array that grows at its end; `values` is a view of what it holds."""

    def __init__(self, dtype: type) -> None:
        self._array: np.ndarray = np.zeros(1024, dtype)
        self.count = 0

    @property
    def values(self) -> np.ndarray:
        return self._array[: self.count]

    def append(self, value: int | np.integer[Any]) -> None:
        self._make_room(1)
        self._array[self.count] = value
        self.count += 1

    def extend(self, values: bytes) -> None:
        self._make_room(len(values))
        self._array[self.count : self.count + len(values)] = np.frombuffer(values, np.uint8)
        self.count += len(values)

    def _make_room(self, more: int) -> None:
        while self.count + more > len(self._array):
            self._array = np.concatenate([self._array, np.zeros_like(self._array)])
