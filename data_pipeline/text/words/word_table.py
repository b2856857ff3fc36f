"""The words of texts as rows of growing tables, which compiled functions read."""

from __future__ import annotations

import itertools
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from headwater.data_pipeline.text.words import counting
from headwater.data_pipeline.text.words.punctuation import PUNCTUATION, TERMINAL_PUNCTUATION


@dataclass(frozen=True)
class WordIds:
    """The words of one text as rows of the vocabulary's tables."""

    ids: np.ndarray
    """int32 [N]"""
    vocabulary: WordTable

    def __len__(self) -> int:
        return len(self.ids)

    def strings(self) -> list[str]:
        names = self.vocabulary.names
        return [names[word] for word in self.ids.tolist()]

    def distinct(self, words: Iterable[str]) -> int:
        """Number of these words that occur in the text."""
        known = [row for word in words if (row := self.vocabulary.rows.get(word)) is not None]
        return int(counting.distinct(self.ids, np.array(known, np.int32)))


class WordTable(ABC):
    """All words seen. Subclasses cut texts into words."""

    def __init__(self, enders: Iterable[str] = TERMINAL_PUNCTUATION) -> None:
        self._enders = frozenset(enders)
        """Words that end a sentence."""
        self.rows: dict[str, int] = {}
        self.names: list[str] = []
        self.lengths, self.flags = Growing(np.int32), Growing(np.uint8)
        """Of each word: its characters, and flags such as `counting.SOLID`."""
        self.hashes, self.powers = Growing(np.uint64), Growing(np.uint64)
        """Of each word: the hash of its characters, and counting.BASE to the power of their number."""
        self._bytes, self._byte_offsets = Growing(np.uint8), Growing(np.int64)
        self._byte_offsets.append(0)

    def __len__(self) -> int:
        """Number of strings in memory."""
        return len(self.names)

    @abstractmethod
    def words(self, text: str) -> WordIds:
        """Words of a text. Raises Refused if that would take too long."""

    @abstractmethod
    def sentences(self, lines: list[str]) -> int:
        """Total number of sentences, of each line separately."""

    def ids(self, words: list[str]) -> WordIds:
        """The words as rows."""
        self._add_words(words)
        return WordIds(np.fromiter(map(self.rows.__getitem__, words), np.int32, len(words)), self)

    def bytes(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [V + 1] offsets, and the concatenated UTF-8 bytes of all words."""
        return self._byte_offsets.values, self._bytes.values

    def _add_words(self, words: list[str]) -> None:
        new = [word for word in dict.fromkeys(words) if word not in self.rows]
        if not new:
            return
        self.rows.update(zip(new, itertools.count(len(self.names))))
        self.names += new
        lengths = np.fromiter(map(len, new), np.int32, len(new))
        self.lengths.extend(lengths)
        self.flags.extend(np.fromiter(map(self._flags_of, new), np.uint8, len(new)))
        codes = np.frombuffer("".join(new).encode("utf-32-le", "surrogatepass"), np.uint32)
        values, powers = counting.hash_words(codes, lengths)
        self.hashes.extend(values)
        self.powers.extend(powers)
        encoded = [word.encode("utf-8", "surrogatepass") for word in new]
        self._byte_offsets.extend(self._bytes.count + np.cumsum([len(data) for data in encoded]))
        self._bytes.extend(np.frombuffer(b"".join(encoded), np.uint8))

    def _ends(self, word: str) -> bool:
        return word in self._enders

    def _flags_of(self, word: str) -> int:
        return (
            counting.SOLID * (not PUNCTUATION.issuperset(word))
            + counting.LETTERS * any(map(str.isalpha, word))
            + counting.ENDS * self._ends(word)
            + counting.MARK * all(unicodedata.category(character)[0] == "P" for character in word)
        )


class Growing:
    """A growing numpy array. `values` is a view of its content."""

    def __init__(self, dtype: type) -> None:
        self._array: np.ndarray = np.zeros(1024, dtype)
        self.count = 0

    @property
    def values(self) -> np.ndarray:
        return self._array[: self.count]

    def append(self, value: int) -> None:
        self._make_room(1)
        self._array[self.count] = value
        self.count += 1

    def extend(self, values: np.ndarray) -> None:
        self._make_room(len(values))
        self._array[self.count : self.count + len(values)] = values
        self.count += len(values)

    def _make_room(self, more: int) -> None:
        while self.count + more > len(self._array):
            self._array = np.concatenate([self._array, np.zeros_like(self._array)])
