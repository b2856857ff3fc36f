"""Claims: which sentences stand alone, and what shortening leaves of them."""

from __future__ import annotations

import pytest

from headwater.llm.grounding.cite import support
from headwater.llm.grounding.claims import claim_spans, shortened
from headwater.llm.grounding.passages import Passage

TEXT = (
    "The council of Leeds voted on Tuesday to rebuild the old bridge. He said that work would begin in March "
    'next year. "The bridge matters to everyone here in town," said Lisa Brown of Leeds. But critics of the '
    "plan fear higher taxes for the whole region. Did the council of Leeds ask the people of the town first? "
    "Work on the bridge costs 12 million pounds and takes two years. It rained."
)


def test_claims_are_the_sentences_that_stand_alone() -> None:
    assert [TEXT[start:end] for start, end in claim_spans(TEXT)] == [
        "The council of Leeds voted on Tuesday to rebuild the old bridge.",
        "Work on the bridge costs 12 million pounds and takes two years.",
    ]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (
            "However, the council, which met on Monday, voted to rebuild the bridge of Leeds, police said.",
            "The council voted to rebuild the bridge of Leeds.",
        ),
        (
            "WASHINGTON (Reuters) - U.S. President Donald Trump signed an order on Friday to review rules.",
            "U.S. President Donald Trump signed an order on Friday to review rules.",
        ),
        (
            "The bank (founded in 1880) cut 300 jobs in Wales, according to a letter seen by the BBC.",
            "The bank cut 300 jobs in Wales.",
        ),
        (
            "On Monday morning, farmers in Kent lost their wheat to the rain, while ministers promised help.",
            "Farmers in Kent lost their wheat to the rain.",
        ),
        (
            "Rain fell, officials in the town of Leeds said.",
            "Rain fell, officials in the town of Leeds said.",
        ),
        ("Rain fell.", ""),
        (" ".join(["word"] * 30) + ".", ""),
    ],
)
def test_shortening_drops_what_surrounds_a_claim_if_enough_is_left(sentence: str, expected: str) -> None:
    assert shortened(sentence) == expected
    passage = Passage("d", "", "Title", sentence, 0, len(sentence))
    assert not expected or support(expected, [passage]) is not None
