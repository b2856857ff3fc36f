"""Checks whether a written sentence agrees with its source in negations, names, numbers and subject.

The checks are rules over words, without a model. They are strict: an unrecognised sentence gets no
citation. They know neither roles nor synonyms: "bridge" and "council" exchanged pass, and so does an invented
common noun in the middle of a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from headwater.llm.grounding.sentences import FUNCTION_WORDS, stem

_TOKEN = re.compile(r"\d[\d.,]*\d|[^\W_]+(?:['’][^\W_]+)*|[^\w\s]")
_NEGATOR_WORDS = """
not no never none nobody nothing nowhere neither nor without cannot hardly barely scarcely unable
fail fails failed failing refuse refuses refused refusing decline declines declined declining
"""
_CLAUSE_END_TOKENS = ", ; : . ! ? – — and but or because while although though"
_PREPOSITION_WORDS = """
about after against among around at before behind between by during for from in into near of off on over
since through to toward towards under until with within
"""
_SMALL = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_LARGE = "half third quarter dozen hundred thousand million billion trillion"
_NEGATORS = frozenset(_NEGATOR_WORDS.split())
_CLAUSE_ENDS = frozenset(_CLAUSE_END_TOKENS.split())
_PREPOSITIONS = frozenset(_PREPOSITION_WORDS.split())
_NUMBERS = {
    **{word: str(value) for value, word in enumerate(_SMALL.split())},
    **{word: str(10 * ten) for ten, word in enumerate(_TENS.split(), 2)},
    **{word: word for word in _LARGE.split()},
}
del _NUMBERS["one"]  # mostly no number: "one of them", "no one"
_OPENERS = ".!?\"'“‘"
"""Tokens after which a sentence may begin."""
_GOVERNED = 2
"""Number of content words after a negation, within its clause, that it negates."""
_NEAR = 1
"""Number of content words on each side of a number that tell what it counts."""


def agrees(sentence: str, source: Sequence[str], passage: str) -> bool:
    """Whether negations, names, numbers and subject of `sentence` are those of its source.

    `source`: the source's sentences that contain its words. `passage`: the text around them, with its title;
    names may come from there.
    """
    said, whole = _tokens(sentence), _tokens(passage)
    held = [token for text in source for token in (*_tokens(text), ".")]
    return (
        _negations_agree(said, held)
        and _names_agree(said, held, whole)
        and _numbers_agree(said, held)
        and _subject_is_known(said, {stem(token) for token in whole})
    )


def fabricated(text: str, known: Iterable[str]) -> list[str]:
    """The numbers and names of a text that are in none of the known texts, in order.

    A number counts as known in digits or in words. A single capitalised word that opens a sentence is
    taken for a common word.
    """
    tokens = _tokens(text)
    theirs = [token for other in known for token in _tokens(other)]
    numbers = {number for token in theirs if (number := _number(token)) is not None}
    words = {stem(token) for token in theirs}
    opening = {i for i in range(len(tokens)) if i == 0 or tokens[i - 1] in _OPENERS}
    found = []
    for i, token in enumerate(tokens):
        if (number := _number(token)) is not None:
            if number not in numbers and stem(token) not in words:
                found.append(token)
        elif _is_name(token) and stem(token) not in words:
            followed = i + 1 < len(tokens) and _is_name(tokens[i + 1])
            if i not in opening or followed:
                found.append(token)
    return found


def _is_name(token: str) -> bool:
    return token[0].isupper() and token.lower() not in FUNCTION_WORDS and not _is_negator(token)


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.replace("’", "'"))


def _number(token: str) -> str | None:
    """A number as written in digits; the word itself for hundred, million and the like."""
    return token.replace(",", "") if token[0].isdigit() else _NUMBERS.get(token.lower().removesuffix("s"))


def _is_content(token: str) -> bool:
    return token[0].isalnum() and token.lower() not in FUNCTION_WORDS and not _is_negator(token)


def _is_negator(token: str) -> bool:
    return token.lower() in _NEGATORS or token.lower().endswith("n't")


def _content(tokens: Iterable[str]) -> list[str]:
    return [stem(token) for token in tokens if _is_content(token)]


# -- negations -------------------------------------------------------------------------------
def _negated(tokens: Sequence[str]) -> list[list[str]]:
    """The words that each negation negates: the next ones in its clause, or else the last ones before it."""
    found = []
    for i, token in enumerate(tokens):
        if _is_negator(token):
            ends = (j for j in range(i + 1, len(tokens)) if tokens[j].lower() in _CLAUSE_ENDS)
            after = _content(tokens[i + 1 : next(ends, len(tokens))])
            found.append(after[:_GOVERNED] or _content(tokens[:i])[-_GOVERNED:])
    return found


def _negations_agree(said: Sequence[str], held: Sequence[str]) -> bool:
    """Every negation is in the source too, and no negation of the source about these words is missing."""
    ours, theirs = _negated(said), _negated(held)
    words = set(_content(said))
    return all(any(_same(one, other) for other in theirs) for one in ours) and all(
        any(_same(one, other) for one in ours) for other in theirs if words & set(other[:1])
    )


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether one negation covers the first word of the other."""
    return bool(set(one[:1]) & set(other) or set(other[:1]) & set(one))


# -- names -------------------------------------------------------------------------------------
def _names(tokens: Sequence[str]) -> list[tuple[list[str], bool]]:
    """Runs of capitalised words; for each, whether a preposition precedes it."""
    found: list[tuple[list[str], bool]] = []
    for i, token in enumerate(tokens):
        opens = i == 0 or tokens[i - 1] in _OPENERS
        if not _is_name(token):
            continue
        if found and not opens and tokens[i - 1] == found[-1][0][-1]:
            found[-1][0].append(token)
        else:
            found.append(([token], i > 0 and tokens[i - 1].lower() in _PREPOSITIONS))
    return found


def _names_agree(said: Sequence[str], held: Sequence[str], whole: Sequence[str]) -> bool:
    """Every name is in the passage, no name mixes two names, and actors have the source's order.

    Actors are names without a preposition before them. If only one of the two sentences has "by" (passive
    voice), the order is not checked.
    """
    known = {stem(token) for token in whole}
    proper = {stem(token) for run, _ in _names(whole) for token in run}
    runs = [[stem(token) for token in run] for run, _ in _names(whole)]
    for name, _ in _names(said):
        parts = [stem(token) for token in name]
        if not set(parts) <= known:
            return False
        parts = [part for part in parts if part in proper]
        if len(parts) > 1 and not any(_in_order(parts, run) for run in runs):
            return False
    if ("by" in said) != ("by" in held):
        return True
    places = _actors(held)
    order = [places.index(actor) for actor in _actors(said) if actor in places]
    return all(one < other for one, other in pairwise(order))


def _actors(tokens: Sequence[str]) -> list[str]:
    return list(
        dict.fromkeys(stem(run[-1]) for run, after_preposition in _names(tokens) if not after_preposition)
    )


def _in_order(parts: Sequence[str], run: Sequence[str]) -> bool:
    rest = iter(run)
    return all(part in rest for part in parts)


# -- numbers and subject -------------------------------------------------------------------------
def _numbers_agree(said: Sequence[str], held: Sequence[str]) -> bool:
    """Every number is in the source, next to at least one of the same words."""
    theirs = _counted(held)
    return all(
        any(number == other and (not near or near & theirs_near) for other, theirs_near in theirs)
        for number, near in _counted(said)
    )


def _counted(tokens: Sequence[str]) -> list[tuple[str, set[str]]]:
    found = []
    for i, token in enumerate(tokens):
        if (number := _number(token)) is not None:
            before = _content(t for t in tokens[:i] if _number(t) is None)[-_NEAR:]
            after = _content(t for t in tokens[i + 1 :] if _number(t) is None)[:_NEAR]
            found.append((number, {*before, *after}))
    return found


def _subject_is_known(said: Sequence[str], known: set[str]) -> bool:
    """The first content word is in the passage. After a leading preposition, so are the second content word
    and the first one after a comma."""
    first = _content(said)[:1]
    if said and said[0].lower() in _PREPOSITIONS:
        first = _content(said)[:2]
        if "," in said:
            first += _content(said[said.index(",") :])[:1]
    numbers = {stem(token) for token in said if _number(token) is not None}
    return set(first) <= known | numbers
