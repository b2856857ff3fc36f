"""Words of a text as datatrove counts them (the tokens of spaCy's language), with cached tokenization.

spaCy splits a text at white space and tokenizes each chunk separately, so known chunks need not be tokenized
again: a text becomes chunk ids, and these become word ids. Only one rule of spaCy crosses white space:
special cases such as `8)` may match with a space between their tokens, and then block a neighbour's match.
Texts where this happens are detected and tokenized by spaCy as a whole.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headwater.data_pipeline.text.words import counting
from headwater.data_pipeline.text.words.word_table import Growing, WordIds, WordTable
from headwater.data_pipeline.verdict import Refused, Rejection

LEFT, RIGHT, CUT = 1, 2, 4
"""Flags of a chunk: its last token starts a pair inside a special case; its first token ends one; it was cut
into pieces."""
AROUND = 16
"""Chunks on each side that are tokenized together around such a pair. No special case is that long."""
LONG, PIECE = 1000, 64
"""Chunks longer than LONG with very many marks are tokenized in pieces of PIECE characters. spaCy strips
marks one by one and scans the whole chunk each time, so thousands of quotation marks would take minutes."""
HUGE = 20_000
"""Longer chunks are always cut."""
HEAVY, BURDEN = 4_000_000, 20_000_000
"""Limits of marks × characters (about 0.1 µs each): a long chunk above HEAVY is cut, and a text above BURDEN
in total is refused. None of 300 pages of C4 exceeds 1 % of that."""
FEW_MARKS = 8
"""Chunks with fewer marks have no burden."""
LOOKS = 1000
"""Maximum number of candidate pairs that are examined per text; further ones are assumed not to match."""
EASY = re.compile(r"([A-Za-z]+)([,!?;:)\"]|(?<=[a-z])\.)?")
"""English chunks that need not go through spaCy: it splits off one such mark and never splits letters."""
NEVER = re.compile(r"(?!)")
MARKS_TAKEN_OFF = re.compile(r"[^\w.-]|_")
NO_EDGES = (frozenset[str](), frozenset[str]())


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """Keep spaCy from importing torch for models not used here, which costs 2 s and 190 MB per worker."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules["torch"]


class Vocabulary(WordTable):
    """All chunks and words seen of a language that spaCy splits at white space and marks."""

    def __init__(self, language: str = "en") -> None:
        """`language` is spaCy's name of it; `xx` has only the rules common to all languages."""
        with without_torch():
            import spacy
            from spacy.tokenizer import Tokenizer

        nlp: Any = spacy.blank(language)
        nlp.max_length = 1 << 30
        super().__init__(nlp.add_pipe("sentencizer").punct_chars)
        self._language, self._tokenizer = nlp, nlp.tokenizer
        self._easy = EASY if language == "en" else NEVER
        t = self._tokenizer
        self._plain = Tokenizer(
            nlp.vocab,
            rules={},
            prefix_search=t.prefix_search,
            suffix_search=t.suffix_search,
            infix_finditer=t.infix_finditer,
            token_match=t.token_match,
            url_match=t.url_match,
        )
        self._cases = frozenset(t.rules)
        self._pairs = self._pairs_of_special_cases()
        self._lefts = frozenset(left for left, _ in self._pairs)
        self._rights = frozenset(right for _, right in self._pairs)
        self._ends_of_lefts, self._starts_of_rights = tuple(self._lefts), tuple(self._rights)
        self._chunks: dict[str, int] = {}
        self._asked: tuple[list[str], np.ndarray] = ([], np.zeros(0, np.int32))
        """Last request and its result: C4's rules mostly repeat Gopher's request, and comparing is faster."""
        self._edges: list[tuple[frozenset[str], frozenset[str]]] = []
        self._chunk_texts: list[str] = []
        self._offsets, self._of_chunks = Growing(np.int64), Growing(np.int32)
        self._offsets.append(0)
        self._chunk_flags, self._burdens = Growing(np.uint8), Growing(np.int64)

    def _pairs_of_special_cases(self) -> frozenset[tuple[str, str]]:
        """Adjacent tokens within the special cases that spaCy matches in a whole text."""
        t, pairs = self._tokenizer, set[tuple[str, str]]()
        for case in self._cases:
            if t.find_prefix(case) or t.find_infix(case) or t.find_suffix(case) or " " in case:
                tokens = [token.text for token in self._plain(case)]
                pairs.update(itertools.pairwise(tokens))
        return frozenset(pairs)

    def __len__(self) -> int:
        """Number of chunks in memory."""
        return len(self._chunks)

    # -- words ---------------------------------------------------------------------------------
    def words(self, text: str) -> WordIds:
        """Words of a text. Raises Refused if its tokenization would take too long."""
        chunks = self.chunk_ids(text.split())
        if self.crosses(chunks) and not self._any_long(chunks):
            strings = [token.text for token in self._tokenizer(text) if token.text.strip()]
            return self.ids(strings)
        return self._expand(chunks)

    def chunk_ids(self, chunks: list[str]) -> np.ndarray:
        """int32 [N]: ids of pieces of text without white space. Raises Refused for too many marks."""
        if chunks == self._asked[0]:
            return self._asked[1]
        number_of = self._chunks.__getitem__
        try:
            ids = np.fromiter(map(number_of, chunks), np.int32, len(chunks))
        except KeyError:
            new = {chunk: 0 for chunk in chunks if chunk not in self._chunks}
            for chunk in new:
                new[chunk] = burden(chunk)
            if any(new.values()):
                _bear(sum(new.get(chunk, 0) for chunk in chunks))
            self._add(new)
            ids = np.fromiter(map(number_of, chunks), np.int32, len(chunks))
        _bear(int(self._burdens.values[ids].sum()))
        self._asked = chunks, ids
        return ids

    def crosses(self, chunks: np.ndarray) -> bool:
        """Whether spaCy tokenizes these chunks differently together than separately."""
        seen: set[bytes] = set()
        for place in counting.candidates(chunks, self._chunk_flags.values, LEFT, RIGHT).tolist():
            lefts, rights = self._edges[chunks[place]][1], self._edges[chunks[place + 1]][0]
            if any((left, right) in self._pairs for left in lefts for right in rights):
                near = chunks[max(0, place - AROUND) : place + AROUND]
                if near.tobytes() in seen or self._any_long(near):
                    continue
                seen.add(near.tobytes())
                together = [token.text for token in self._tokenizer(" ".join(self._texts(near)))]
                if together != self._expand(near).strings():
                    return True
                if len(seen) == LOOKS:
                    return False
        return False

    def _any_long(self, chunks: np.ndarray) -> bool:
        return bool((self._chunk_flags.values[chunks] & CUT).any())

    def _expand(self, chunks: np.ndarray) -> WordIds:
        return WordIds(counting.expand(chunks, self._offsets.values, self._of_chunks.values), self)

    def _texts(self, chunks: np.ndarray) -> list[str]:
        return [self._chunk_texts[chunk] for chunk in chunks.tolist()]

    # -- sentences -----------------------------------------------------------------------------
    def sentences(self, lines: list[str]) -> int:
        """Total number of sentences by spaCy's sentencizer, applied to each line separately."""
        total, regular, ends = 0, [], []
        for line in lines:
            chunks = line.split()
            if not chunks or " ".join(chunks) != line:
                total += self._sentences_by_spacy(line)  # additional white space is a token of its own
            else:
                regular += chunks
                ends.append(len(regular))
        ids = self.chunk_ids(regular)
        if self.crosses(ids) and not self._any_long(ids):  # rare, so pairs across lines need not be excluded
            return sum(map(self._sentences_by_spacy, lines))
        counted = counting.sentences(
            ids, np.array(ends, np.int64), self._offsets.values, self._of_chunks.values, self.flags.values
        )
        return total + int(counted)

    def _sentences_by_spacy(self, line: str) -> int:
        """Number of sentences of a line, at least one: datatrove does not split a line without sentences."""
        return max(1, sum(1 for _ in self._language(line).sents))

    # -- tables --------------------------------------------------------------------------------
    def _add(self, chunks: Mapping[str, int]) -> None:
        """Add new chunks, given with their burdens."""
        split: dict[str, tuple[list[str], list[str]]] = {}
        hard = []
        for chunk in chunks:
            plain_word = self._easy.fullmatch(chunk)
            if plain_word and chunk not in self._cases and plain_word[1] not in self._cases:
                tokens = list(filter(None, plain_word.groups()))
                split[chunk] = tokens, tokens
            elif _is_cut(chunk):
                pieces = [chunk[start : start + PIECE] for start in range(0, len(chunk), PIECE)]
                known = {piece: [token.text for token in self._tokenizer(piece)] for piece in set(pieces)}
                tokens = list(itertools.chain.from_iterable(map(known.__getitem__, pieces)))
                split[chunk] = tokens, tokens
            else:
                hard.append(chunk)
        split.update((chunk, (tokens, tokens)) for chunk, tokens in _split_all(self._tokenizer, hard))
        # spaCy matches tokens before special cases apply, so the edges with and without them are checked.
        edged = [c for c in hard if c.endswith(self._ends_of_lefts) or c.startswith(self._starts_of_rights)]
        split.update((chunk, (split[chunk][0], plain)) for chunk, plain in _split_all(self._plain, edged))
        self._add_words(list(itertools.chain.from_iterable(tokens for tokens, _ in split.values())))
        for chunk in chunks:
            tokens, plain = split[chunk]
            self._of_chunks.extend(np.fromiter((self.rows[token] for token in tokens), np.int32, len(tokens)))
            self._offsets.append(self._of_chunks.count)
            first, last = frozenset((tokens[0], plain[0])), frozenset((tokens[-1], plain[-1]))
            flags = LEFT * (not last.isdisjoint(self._lefts)) + RIGHT * (not first.isdisjoint(self._rights))
            flags += CUT * _is_cut(chunk)
            self._chunks[chunk] = self._chunk_flags.count
            self._chunk_flags.append(flags)
            self._burdens.append(chunks[chunk])
            self._edges.append((first, last) if flags else NO_EDGES)
            self._chunk_texts.append(chunk)


def burden(chunk: str) -> int:
    """Work of spaCy for a chunk: number of marks × number of characters."""
    marks = 0 if chunk.isalnum() else len(MARKS_TAKEN_OFF.findall(chunk))
    return 0 if marks < FEW_MARKS else marks * (PIECE if _is_cut(chunk) else len(chunk))


def _is_cut(chunk: str) -> bool:
    if not LONG < len(chunk) <= HUGE:
        return len(chunk) > HUGE
    marks = len(MARKS_TAKEN_OFF.findall(chunk))
    return marks * 3 > len(chunk) or marks * len(chunk) > HEAVY


def _bear(total: int) -> None:
    if total > BURDEN:
        raise Refused(Rejection("too_many_marks", total, BURDEN))


def _split_all(tokenizer: Any, chunks: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each chunk with its tokens, from one call of spaCy. The chunks are joined by line ends, which are
    tokens, so that no special case matches across chunks."""
    words = [token.text for token in tokenizer("\n".join(chunks))] if chunks else []
    ends = [place for place, word in enumerate(words) if word == "\n"]
    starts = itertools.chain([0], (end + 1 for end in ends))
    for chunk, start, end in zip(chunks, starts, [*ends, len(words)], strict=False):
        yield chunk, words[start:end]
