"""Words of scripts that spaCy's rules do not split: the word splitters that datatrove uses for them.

FineWeb-2's limits were found with these. Chinese, Japanese and Thai take a dictionary: the extra `languages`.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import regex

from headwater.data_pipeline.text.words import counting
from headwater.data_pipeline.text.words.word_table import WordIds, WordTable

Split = Callable[[str], Iterable[str]]

SUDACHI_BYTES = 40_000
"""Sudachi refuses texts above 49,149 bytes; datatrove gives it 40,000 at a time."""
INDIC_MARKS = string.punctuation + "।॥\uaaf1\uaaf0\uabeb\uabec\uabed\uabee\uabef\u1c7e\u1c7f"
URDU_MARKS = string.punctuation + "\u0609\u060a،؞٪٫٬٭۔"
LONG, PIECE = 2000, 500
LONG_RUN = re.compile(rf"(?<!\w)\w{{{LONG},}}")
NUMBER = re.compile(r"(?<![0-9])(?:[0-9]++ [,.:/] )+[0-9]++")
BLANKS = re.compile(r"[ \t]+")
CLUSTER = regex.compile(
    r"""(?V1)[\p{Khmer}\p{Lao}\p{Myanmar}\p{Tibetan}\p{Thai}\p{Han}\p{Hiragana}\p{Katakana}--[\p{P}\p{S}]]\p{M}*
    |[\p{P}\p{S}]
    |[^\s\p{P}\p{S}\p{Khmer}\p{Lao}\p{Myanmar}\p{Tibetan}\p{Thai}\p{Han}\p{Hiragana}\p{Katakana}]+""",
    regex.VERBOSE,
)


class Segmented(WordTable):
    """All words seen of one splitter."""

    def __init__(self, split: Split) -> None:
        super().__init__()
        self._split = split

    def words(self, text: str) -> WordIds:
        return self.ids([word for part in self._split(text) if (word := part.strip())])

    def sentences(self, lines: list[str]) -> int:
        found = [self.words(line).ids for line in lines]
        ends = np.cumsum([0, *map(len, found)])
        chunks = np.arange(len(found), dtype=np.int32)
        words = np.concatenate([np.zeros(0, np.int32), *found])
        return int(counting.sentences(chunks, chunks + 1, ends, words, self.flags.values))

    def _ends(self, word: str) -> bool:
        return word[-1] in self._enders  # Urdu's splitter leaves `؟` at its word


def jieba() -> Split:
    """Chinese (jieba 0.42.1)."""
    from jieba import Tokenizer

    tokenizer = Tokenizer()
    # `initialize` would read and write a cache with a known name in the system's folder for temporary files.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return lambda text: itertools.chain.from_iterable(map(tokenizer.cut, bounded(text)))


def bounded(text: str) -> Iterator[str]:
    """Cut runs of LONG or more letters and digits into pieces of PIECE: the time of jieba and PyThaiNLP is
    quadratic in them, and no sentence is that long."""
    last = 0
    for run in LONG_RUN.finditer(text):
        for cut in range(run.start() + PIECE, run.end(), PIECE):
            yield text[last:cut]
            last = cut
    yield text[last:]


def sudachi() -> Split:
    """Japanese (SudachiPy in mode A, as spaCy uses it). A text above SUDACHI_BYTES is cut at line ends, so a
    word there may differ from datatrove's, which cuts anywhere."""
    from sudachipy import Dictionary, SplitMode

    tokenizer = Dictionary().create(mode=SplitMode.A)

    def split(text: str) -> Iterator[str]:
        for piece in pieces(text, SUDACHI_BYTES):
            for morpheme in tokenizer.tokenize(piece):
                yield morpheme.surface()

    return split


def pieces(text: str, most: int) -> Iterator[str]:
    """Cut a text into pieces of at most so many bytes of UTF-8, after the last line end that allows it."""
    while len(text) > most or len(text.encode("utf-8", "replace")) > most:
        fits = text[:most].encode("utf-8", "replace")[:most].decode("utf-8", "ignore")
        end = fits.rfind("\n") + 1 or len(fits)
        yield text[:end]
        text = text[end:]
    yield text


def thai() -> Split:
    """Thai (PyThaiNLP's `newmm-safe`)."""
    from pythainlp.tokenize import word_tokenize

    def split(text: str) -> Iterator[str]:
        for piece in bounded(text):
            yield from word_tokenize(piece, engine="newmm-safe", keep_whitespace=False)

    return split


def indic(marks: str = INDIC_MARKS, numbers: bool = True) -> Split:
    """Languages of India: words between blanks and marks, as indic-nlp-library 0.92 splits them. As there, a
    line end does not end a word, and with `numbers` digits joined by one of , . : / are one word, except at
    the start of the text."""
    mark = re.compile(f"([{re.escape(marks)}])")

    def split(text: str) -> list[str]:
        spaced = BLANKS.sub(" ", mark.sub(r" \1 ", text)).strip(" ")
        if numbers:
            spaced = NUMBER.sub(_joined, spaced)
        return spaced.split(" ")

    return split


def _joined(number: re.Match[str]) -> str:
    return number[0].replace(" ", "") if number.start() else number[0]


def urdu() -> Split:
    """Urdu and related languages in Arabic script, as indic-nlp-library splits Urdu."""
    return indic(URDU_MARKS, numbers=False)


def clusters() -> Split:
    """Scripts without spaces for which there is no dictionary here: each letter with its marks is a word."""
    return CLUSTER.findall


SPLITTERS: dict[str, Callable[[], Split]] = {
    "jieba": jieba,
    "sudachi": sudachi,
    "thai": thai,
    "indic": indic,
    "indic ur": urdu,
    "clusters": clusters,
}
"""Splitters besides spaCy's, by their name in languages.tsv."""
PACKAGES = {"jieba": ("jieba",), "sudachi": ("sudachipy", "sudachidict_core"), "thai": ("pythainlp",)}
"""What a splitter imports from the extra `languages`."""
