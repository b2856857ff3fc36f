"""Does a citation certify what its source does not say?

    python -m benchmarks.serving.citations STORE [--sentences 200] [--show KIND]

STORE holds a finished stage `clean`. Sentences of its documents are changed by rule, each in every way that
it allows, and checked against the passages of their own document, as an answer in `write` mode is. An
unchanged sentence should be cited, a changed one should not.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Iterator

from headwater.cluster.storage.store import Store
from headwater.data_pipeline.corpus import iter_documents
from headwater.data_pipeline.split import document_fraction
from headwater.llm.grounding.cite import support
from headwater.llm.grounding.claims import claim_spans
from headwater.llm.grounding.passages import Passage, passage_spans

Change = Callable[[str, str, random.Random], str | None]
"""(sentence, text of its document, randomness) → the changed sentence; None where the rule does not apply."""

_AUXILIARY = re.compile(r"\b(?:is|are|was|were|has|have|had|will|would|can|could|should|may|might|must)\b")
_PAST = re.compile(r"(?<=[a-z] )([a-z]{3,}ed)\b(?= (?:the|a|an|to|that|in|on|at|for|with)\b)")
_NAME = re.compile(r"(?<=\w )[A-Z][a-z]{2,}(?: [A-Z][a-z]{2,})*")
_NUMBER = re.compile(r"\b\d+\b")
_NOUN = re.compile(r"\b(?:the|a|an|his|her|its|their) ([a-z]{4,})\b")
_CLAUSE = re.compile(
    r"((?:(?:The|A|An|[A-Z]\w+) )(?:\w+ ){0,2})(\w+ed) ((?:the|a|an|its|his|her|their) \w+|[A-Z]\w+)(?=[ .,])"
)
_OPPOSITES = [
    pair.split("/")
    for pair in [
        "more/fewer",
        "rise/fall",
        "rose/fell",
        "rising/falling",
        "increase/decrease",
        "increased/decreased",
        "higher/lower",
        "high/low",
        "won/lost",
        "win/lose",
        "first/last",
        "before/after",
        "supported/opposed",
        "accepted/rejected",
        "opened/closed",
        "began/ended",
        "start/stop",
        "began/ceased",
        "approved/rejected",
        "allowed/banned",
        "strong/weak",
        "large/small",
        "old/new",
        "early/late",
        "north/south",
        "east/west",
        "best/worst",
        "men/women",
        "up/down",
        "inside/outside",
        "success/failure",
        "guilty/innocent",
        "legal/illegal",
        "likely/unlikely",
        "public/private",
        "increase/reduction",
        "gained/lost",
        "arrested/released",
        "killed/saved",
        "confirmed/denied",
        "best/worst",
        "good/bad",
        "major/minor",
        "male/female",
        "left/right",
        "domestic/foreign",
        "buy/sell",
        "bought/sold",
        "married/divorced",
        "joined/left",
    ]
]


def negated(sentence: str, text: str, chance: random.Random) -> str | None:
    if match := _AUXILIARY.search(sentence):
        return f"{sentence[: match.end()]} not{sentence[match.end() :]}"
    if match := _PAST.search(sentence):
        return f"{sentence[: match.start()]}never {sentence[match.start() :]}"
    return None


def other_number(sentence: str, text: str, chance: random.Random) -> str | None:
    match = chance.choice(list(_NUMBER.finditer(sentence)) or [None])
    if match is None:
        return None
    changed = str(int(match.group()) + chance.choice([1, 2, 7, 10]))
    return sentence[: match.start()] + changed + sentence[match.end() :]


def names_exchanged(sentence: str, text: str, chance: random.Random) -> str | None:
    return _exchange(sentence, [match.span() for match in _NAME.finditer(sentence)], chance)


def nouns_exchanged(sentence: str, text: str, chance: random.Random) -> str | None:
    return _exchange(sentence, [match.span(1) for match in _NOUN.finditer(sentence)], chance)


def other_name(sentence: str, text: str, chance: random.Random) -> str | None:
    """Another name of the same document in the place of one."""
    return _replace(sentence, [m.span() for m in _NAME.finditer(sentence)], _NAME.findall(text), chance)


def other_noun(sentence: str, text: str, chance: random.Random) -> str | None:
    """Another noun of the same document in the place of one."""
    return _replace(sentence, [m.span(1) for m in _NOUN.finditer(sentence)], _NOUN.findall(text), chance)


def opposite(sentence: str, text: str, chance: random.Random) -> str | None:
    for pair in chance.sample(_OPPOSITES, len(_OPPOSITES)):
        for one, other in (pair, pair[::-1]):
            if re.search(rf"\b{one}\b", sentence):
                return re.sub(rf"\b{one}\b", other, sentence, count=1)
    return None


def subject_and_object_exchanged(sentence: str, text: str, chance: random.Random) -> str | None:
    """The subject before a past form, and the noun or name behind it, change places."""
    if not (match := _CLAUSE.match(sentence)) or _AUXILIARY.search(match.group(1)):
        return None
    subject, verb, object_ = match.group(1).strip(), match.group(2), match.group(3)
    swapped = f"{object_[0].upper()}{object_[1:]} {verb} {subject[0].lower()}{subject[1:]}"
    return swapped + sentence[match.end() :]


def _exchange(sentence: str, spans: list[tuple[int, int]], chance: random.Random) -> str | None:
    pairs = [
        (one, other)
        for n, one in enumerate(spans)
        for other in spans[n + 1 :]
        if sentence[slice(*one)].lower() != sentence[slice(*other)].lower()
    ]
    if not pairs:
        return None
    (a, b), (c, d) = chance.choice(pairs)
    return sentence[:a] + sentence[c:d] + sentence[b:c] + sentence[a:b] + sentence[d:]


def _replace(
    sentence: str, spans: list[tuple[int, int]], others: list[str], chance: random.Random
) -> str | None:
    new = sorted({other for other in others if other not in sentence})
    if not spans or not new:
        return None
    start, end = chance.choice(spans)
    return sentence[:start] + chance.choice(new) + sentence[end:]


CHANGES: list[Change] = [
    negated,
    other_number,
    names_exchanged,
    nouns_exchanged,
    other_name,
    other_noun,
    opposite,
    subject_and_object_exchanged,
]


def sentences(store: Store, count: int) -> Iterator[tuple[str, str, list[Passage]]]:
    """(sentence, its document's text, its passages), at most two per document, by the documents' hashes."""
    found = 0
    for document in sorted(iter_documents(store.find("clean", "")), key=lambda d: document_fraction(d["id"])):
        text = document["text"]
        passages = [
            Passage(document["id"], document["url"], document["title"] or "", text[start:end], start, end)
            for start, end in passage_spans(text, 80, 20)
        ]
        for start, end in claim_spans(text)[:2]:
            yield text[start:end], text, passages
            found += 1
            if found == count:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--show", default="")
    given = parser.parse_args()
    chance = random.Random(0)
    kept = whole = 0
    refused: dict[str, list[bool]] = {change.__name__: [] for change in CHANGES}
    for sentence, text, passages in sentences(Store(given.store), given.sentences):
        whole += 1
        if support(sentence, passages):
            kept += 1
        else:
            print(f"  not cited though unchanged: {sentence}")
        for change in CHANGES:
            made = change(sentence, text, chance)
            if made is None or made in text:
                continue
            uncited = support(made, passages) is None
            refused[change.__name__].append(uncited)
            if not uncited and given.show in (change.__name__, "all"):
                print(f"  cited: {made}\n     from: {sentence}")
    print(f"unchanged: {kept} of {whole} cited")
    for name, results in refused.items():
        print(f"{name}: {sum(results)} of {len(results)} not cited")
    together = [result for results in refused.values() for result in results]
    print(f"all changed: {sum(together)} of {len(together)} not cited ({sum(together) / len(together):.1%})")


if __name__ == "__main__":
    main()
