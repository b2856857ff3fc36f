"""Checks whether a written sentence agrees with its source in negations, names, numbers and subject.

The checks are rules over words, without a model. They are strict: an unrecognised sentence gets no
citation. They know no synonyms: a word in the place of another one of the source is taken for another claim,
and so is another order of its words, unless a part moved to the beginning or the end, or the voice changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
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
_PASSIVE = re.compile(
    r"\b(?:be|been|being|is|are|was|were)\s+(?:\w+ly\s+)?\w+(?:ed|en|t|wn)\b", re.IGNORECASE
)
_PRONOUN_WORDS = """
he she it they him her them his its their who this that these those
"""
_PRONOUNS = frozenset(_PRONOUN_WORDS.split())
_OPPOSED_WORDS = """
above after all always away before behind below best better beyond down early east few fewer first high higher
inside into last late less least left likely low lower many more most never new north off old on once only out
outside over right since some south then under unlikely until up west with within without worse worst
"""
_OPPOSED = frozenset(_OPPOSED_WORDS.split())
"""Small words that turn a sentence round when one of them stands in the place of another."""
_COPY = 0.75
"""A sentence nearly copies another one if this share of its words follow each other there."""
_VARIANT = 4
"""Words that begin with so many equal letters are taken for forms of one word."""
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
    said, whole, closest = _tokens(sentence), _tokens(passage), _tokens(source[0])
    held = [token for text in source for token in (*_tokens(text), ".")]
    return (
        _negations_agree(said, held)
        and _names_agree(said, held, whole)
        and _numbers_agree(said, held)
        and _subject_is_known(said, {stem(token) for token in whole})
        and _faithful(said, closest, set(_content(held)))
        and (_in_other_voice(sentence, source[0]) or _in_order_of(_content(said), _content(closest)))
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


def mentions(text: str, words: str) -> bool:
    """Whether a text has all numbers and content words of `words`, by their stems; numbers in digits or in
    words."""
    tokens = _tokens(text)
    numbers = {number for token in tokens if (number := _number(token)) is not None}
    stems = {stem(token) for token in tokens}
    wanted = [token for token in _tokens(words) if _is_content(token) or _number(token) is not None]
    return bool(wanted) and all(_number(token) in numbers or stem(token) in stems for token in wanted)


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
    stems = {stem(token) for token in held}
    may_stand_for_pronoun = bool(_PRONOUNS & {token.lower() for token in held})
    proper = {stem(token) for run, _ in _names(whole) for token in run}
    runs = [[stem(token) for token in run] for run, _ in _names(whole)]
    for name, _ in _names(said):
        parts = [stem(token) for token in name]
        if not set(parts) <= (known if may_stand_for_pronoun else stems):
            return False
        parts = [part for part in parts if part in proper]
        if len(parts) > 1 and not any(_in_order(parts, run) for run in runs):
            return False
    if ("by" in said) != ("by" in held):
        return True
    theirs = _governed_names(held)
    for last, before in _governed_names(said).items():
        if last in theirs and any(before - {"by"}) and not before & theirs[last]:
            return False
    places = _actors(held)
    order = [places.index(actor) for actor in _actors(said) if actor in places]
    return all(one < other for one, other in pairwise(order))


def _actors(tokens: Sequence[str]) -> list[str]:
    return list(
        dict.fromkeys(stem(run[-1]) for run, after_preposition in _names(tokens) if not after_preposition)
    )


def _governed_names(tokens: Sequence[str]) -> dict[str, set[str]]:
    """The prepositions before each name, by the name's last word; an empty one where there is none."""
    found: dict[str, set[str]] = {}
    for i, token in enumerate(tokens):
        if not _is_name(token) or (i and _is_name(tokens[i - 1])):
            continue
        last = next(j for j in range(i, len(tokens) + 1) if j == len(tokens) or not _is_name(tokens[j])) - 1
        j = i - 1
        while j >= 0 and tokens[j].lower() in ("the", "a", "an"):
            j -= 1
        before = tokens[j].lower() if j >= 0 and tokens[j].lower() in _PREPOSITIONS else ""
        found.setdefault(stem(tokens[last]), set()).add(before)
    return found


def _in_order(parts: Sequence[str], run: Sequence[str]) -> bool:
    rest = iter(run)
    return all(part in rest for part in parts)


# -- words in the place of others ----------------------------------------------------------------
def _faithful(said: Sequence[str], closest: Sequence[str], held: set[str]) -> bool:
    """Whether a sentence that nearly copies another one has no other content word in the place of one of
    its, none from nowhere, no opposite, and no negation."""
    ours, theirs = [token.lower() for token in said], [token.lower() for token in closest]
    same = SequenceMatcher(None, ours, theirs, autojunk=False)
    if sum(block.size for block in same.get_matching_blocks()) < _COPY * len(ours):
        return True
    if sum(map(_is_negator, said)) > sum(map(_is_negator, closest)):
        return False
    known = set(_content(closest))
    for kind, a, b, c, d in same.get_opcodes():
        new, old = said[a:b], closest[c:d]
        if kind == "equal":
            continue
        if all(_OPPOSED & {token.lower() for token in part} for part in (new, old)):
            return False
        content, instead = _content(new), _content(old)
        unknown = [word for word in content if not any(_forms_of_one(word, other) for other in instead)]
        if unknown and (instead or not set(unknown) <= known | held):
            return False
    return True


def _forms_of_one(one: str, other: str) -> bool:
    if _number(one) is not None or _number(other) is not None:
        return True  # compared by `_numbers_agree`
    return one == other or (one not in _OPPOSED and one[:_VARIANT] == other[:_VARIANT])


def _in_other_voice(sentence: str, source: str) -> bool:
    """Whether one of the two is passive and the other is not."""
    return bool(_PASSIVE.search(sentence)) != bool(_PASSIVE.search(source))


def _in_order_of(said: Sequence[str], closest: Sequence[str]) -> bool:
    """Whether the words that both have once follow each other alike, but for one part moved to the beginning
    or to the end."""
    places = {word: i for i, word in enumerate(closest) if closest.count(word) == 1}
    order = [places[word] for word in said if word in places and said.count(word) == 1]
    falls = [i for i, (one, other) in enumerate(pairwise(order), start=1) if other < one]
    if len(falls) != 1:
        return not falls
    first, second = order[: falls[0]], order[falls[0] :]
    return (
        first[0] > second[-1]
        or (_unbroken(first) and first[0] > second[0])
        or (_unbroken(second) and second[-1] < first[-1])
    )


def _unbroken(places: Sequence[int]) -> bool:
    return places[-1] - places[0] == len(places) - 1


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
