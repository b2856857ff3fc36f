"""Citation rules: which passage supports a sentence of an answer. Pure functions, without model or network.

`quote` mode selects sentences of the passages by score (`choose`); `write` mode checks generated sentences
against the passages (`support`). Both build the answer with `CitedText`, which numbers the sources in the
order of first use.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from headwater.llm.grounding.agreement import agrees
from headwater.llm.grounding.passages import Passage, spells_control_token, title_line
from headwater.llm.grounding.prompt import repeats_instruction
from headwater.llm.grounding.sentences import content_stems, content_words, sentence_spans

CANDIDATE_WORDS = (5, 60)
"""Minimum and maximum words: shorter sentences lack content ("He agreed."), longer ones are noise."""
MARGIN = 1.0
"""Nats. Further sentences are quoted if they score at most this much below the first."""
SAME = 0.5
"""Two sentences count as duplicates from this Jaccard overlap of content words."""
SUPPORT = 0.6
"""Minimum share of a generated sentence's distinct content words that its passage must contain."""
SUPPORT_WORDS = 3
"""Sentences with fewer content words ("It is so.") are not cited: they would match any passage."""
_SOURCE = re.compile(r"[\[［【〔(]\s*\d{1,3}\s*[\]］】〕)]")
_MARKER = re.compile(r"\s*\[(\d{1,3})\]")


@dataclass(frozen=True)
class Candidate:
    """A sentence that may be quoted: `passage.text[start:end]`. `rank` is the rank of its passage, from 1."""

    passage: Passage
    rank: int
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.passage.text[self.start : self.end]


@dataclass(frozen=True)
class Citation:
    """A sentence of the answer and its source. All spans are [start, end) in characters."""

    index: int
    """Number of the source in the answer. Documents are numbered in the order of first use."""
    title: str
    url: str
    document_id: str
    quote: str
    """The text of the passage."""
    start: int
    end: int
    """Span of the sentence in the answer; the marker `[index]` follows it."""
    marker_start: int
    marker_end: int
    source_start: int
    source_end: int
    """Span of the supporting sentence in the document's text."""
    quote_start: int
    """Start of `quote` in the document's text."""


def candidates(passages: Sequence[Passage]) -> list[Candidate]:
    """The sentences of CANDIDATE_WORDS length, by passage rank, without repeats from overlapping passages.

    If the best passage has none of that length, all its sentences are candidates. No sentence is one that
    poses as a numbered source, spells a control token or repeats the prompt's instruction.
    """
    found: list[Candidate] = []
    seen: set[tuple[str, int]] = set()
    for rank, passage in enumerate(passages, start=1):
        for start, end in sentence_spans(passage.text):
            place = (passage.document_id, passage.start + start)
            if place not in seen and _quotable(passage.text[start:end]):
                seen.add(place)
                found.append(Candidate(passage, rank, start, end))
    low, high = CANDIDATE_WORDS
    fitting = [c for c in found if low <= len(c.text.split()) <= high]
    if not any(c.rank == 1 for c in fitting):
        fitting = [c for c in found if c.rank == 1] + [c for c in fitting if c.rank != 1]
    return fitting


def _quotable(sentence: str) -> bool:
    poses = _SOURCE.match(sentence) or spells_control_token(sentence) or repeats_instruction(sentence)
    return not poses


def quote_scores(
    with_question: Sequence[float], without: Sequence[float], ranks: Sequence[int]
) -> np.ndarray:
    """Pointwise mutual information of question and sentence per token, minus the log of the passage's rank.

    Both inputs are mean log-probabilities of a sentence's tokens (nats), with and without the question in the
    prompt. Their difference favours sentences that the question makes likelier over generally likely ones
    (Holtzman et al. 2021, "Surface Form Competition"). The rank enters as the prior 1 / rank of Bayes' rule.
    """
    return np.asarray(with_question) - np.asarray(without) - np.log(np.asarray(ranks, float))


def choose(
    found: Sequence[Candidate],
    scores: np.ndarray,
    count: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
) -> list[Candidate]:
    """Up to `count` sentences: the first from the best document, others if within MARGIN and no duplicates.

    At temperature 0, selects by score. Otherwise adds Gumbel noise of that scale to the scores, which samples
    without replacement from softmax(scores / temperature) (Kool et al. 2019, "Stochastic Beams and Where to
    Find Them"), limited to the nucleus of `top_p`. The result is grouped by document, in document order.
    """
    if not found:
        return []
    keys = np.asarray(scores, float)
    if temperature > 0:
        noise = np.random.default_rng(seed).gumbel(scale=temperature, size=len(keys))
        with np.errstate(over="ignore"):  # -inf at the smallest temperatures
            logits = (keys - keys.max()) / temperature
        keys = np.where(_nucleus(logits, top_p), keys + noise, -np.inf)
    order = sorted(range(len(found)), key=lambda i: (-keys[i], i))
    best_document = found[0].passage.document_id
    first = next(i for i in order if found[i].passage.document_id == best_document)
    chosen = [first]
    for i in order:
        if len(chosen) == count:
            break
        near = keys[i] > -math.inf and keys[i] >= keys[first] - MARGIN
        if near and not any(_same(found[i].text, found[j].text) for j in chosen):
            chosen.append(i)
    documents = list(dict.fromkeys(found[i].passage.document_id for i in chosen))
    return sorted(
        (found[i] for i in chosen),
        key=lambda c: (documents.index(c.passage.document_id), c.passage.start + c.start),
    )


def _nucleus(logits: np.ndarray, top_p: float) -> np.ndarray:
    """Mask of the smallest set of items whose softmax probabilities sum to `top_p`."""
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    before = np.cumsum(probabilities[order]) - probabilities[order]
    mask = np.zeros(len(logits), bool)
    mask[order[before < top_p]] = True
    return mask


def _same(one: str, other: str) -> bool:
    a, b = set(content_words(one)), set(content_words(other))
    return len(a & b) >= SAME * max(1, len(a | b))


def support(sentence: str, passages: Sequence[Passage]) -> Candidate | None:
    """The closest sentence of the passage that supports a generated sentence, or None.

    A passage supports it if it contains at least `SUPPORT` of its distinct content words, and the sentences
    that contain them agree with it (`agreement.py`). Among several, the passage with the largest share wins,
    then the better ranked.
    """
    words = content_stems(sentence)
    if len(words) < SUPPORT_WORDS or not _quotable(sentence.strip()):
        return None
    best: tuple[float, Candidate] | None = None
    for rank, passage in enumerate(passages, start=1):
        text = f"{passage.title}\n{passage.text}"
        share = len(words & content_stems(text)) / len(words)
        if share < SUPPORT or (best is not None and share <= best[0]):
            continue
        spans = _holding(words, passage.text)
        if spans and agrees(sentence, [passage.text[start:end] for start, end in spans], text):
            best = (share, Candidate(passage, rank, *spans[0]))
    return best[1] if best else None


def _holding(words: set[str], text: str) -> list[tuple[int, int]]:
    """The sentence that holds most of the words, then those that add to it, best first."""
    left, found = set(words), []
    spans = sentence_spans(text)
    while spans:
        span = max(spans, key=lambda s: len(left & content_stems(text[s[0] : s[1]])))
        held = left & content_stems(text[span[0] : span[1]])
        if not held:
            break
        found.append(span)
        left -= held
        spans.remove(span)
    return found


def without_markers(text: str) -> str:
    """Remove the unverified `[n]` markers that the model itself wrote."""
    return _MARKER.sub("", text)


def cited_source(sentence: str, passages: Sequence[Passage]) -> tuple[str, Candidate | None]:
    """A generated sentence without its markers, and what supports it.

    A passage that the sentence cites goes before a closer one that it does not cite.
    """
    bare = without_markers(sentence)
    numbers = [int(number) for number in _MARKER.findall(sentence)]
    cited = [passages[number - 1] for number in numbers if 1 <= number <= len(passages)]
    return bare, support(bare, cited) or support(bare, passages)


@dataclass
class CitedText:
    """An answer under construction, with its citations."""

    text: str = ""
    citations: list[Citation] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def add(self, sentence: str, source: Candidate | None) -> str:
        """Append a sentence (with its leading whitespace) and its marker; return the appended text."""
        start = len(self.text) + len(sentence) - len(sentence.lstrip())
        before = len(self.text)
        self.text += sentence
        if source is not None:
            passage = source.passage
            number = self._numbers.setdefault(passage.document_id, len(self._numbers) + 1)
            end = len(self.text)
            self.text += f" [{number}]"
            self.citations.append(
                Citation(
                    index=number,
                    title=title_line(passage.title),
                    url=passage.url,
                    document_id=passage.document_id,
                    quote=passage.text,
                    start=start,
                    end=end,
                    marker_start=end + 1,
                    marker_end=len(self.text),
                    source_start=passage.start + source.start,
                    source_end=passage.start + source.end,
                    quote_start=passage.start,
                )
            )
        return self.text[before:]
