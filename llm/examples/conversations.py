"""Conversations for fine-tuning, made from cleaned documents.

A document here is a row of the cleaned corpus: a mapping with `id`, `url`, `title` and `text`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from headwater.data_pipeline.documents import host_of
from headwater.data_pipeline.split import document_fraction

Document = Mapping[str, Any]
Conversation = list[dict[str, str]]

HELDOUT_SHARE = 0.1
"""Share of documents that are held out: those whose hash fraction (`split.py`) is below it."""
ARTICLE_WORDS = 60
"""Words of an article shown in a headline prompt: a news story's lead says what it is about."""
PASSAGE_WORDS = 50
HEADLINE_WORDS = (3, 30)
"""Fewer words are a section's name ("Quotable"); more are a paragraph in the wrong field."""

_SITE_SEPARATORS = re.compile(r"\s+[|»–—-]\s+|\s*\|\s*")
_NOT_A_NAME = {"www", "com", "org", "net", "gov", "edu", "info", "news"}
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|Gen|Col|Lt|Sgt|Capt|Sen|Rep|Gov|Rev|St|Jr|Sr|vs|No|Co|Inc|Ltd|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)|\b[A-Z](?:\.[A-Z])*)\.\s+$"
)


def question_about(title: str) -> str:
    return f"What is the news about {title}?"


def split_of(document_id: str) -> Literal["train", "heldout"]:
    """The split of a document's conversations: trained on (sft, reward, rl) or held out for evaluation."""
    return "heldout" if document_fraction(document_id) < HELDOUT_SHARE else "train"


def clean_title(title: str, url: str = "") -> str:
    """A headline without the site's name; empty if it is too short or too long.

    A last part of up to four words after a bar or dash is the site's name if it begins or ends with a label
    of the host name: "… - BBC News" of www.bbc.co.uk.
    """
    title = " ".join((title or "").split())
    pieces = list(_SITE_SEPARATORS.finditer(title))
    if pieces and _is_site_name(title[pieces[-1].end() :], url):
        headline = title[: pieces[-1].start()].rstrip()
        title = headline if len(headline.split()) >= HEADLINE_WORDS[0] else title
    return title if HEADLINE_WORDS[0] <= len(title.split()) <= HEADLINE_WORDS[1] else ""


def _is_site_name(words: str, url: str) -> bool:
    name = re.sub(r"\W", "", words.lower())
    labels = [part for part in host_of(url).split(".") if len(part) >= 3 and part not in _NOT_A_NAME]
    affixed = any(name.startswith(label) or name.endswith(label) for label in labels)
    return bool(name) and len(words.split()) <= 4 and affixed


def first_words(text: str, count: int) -> str:
    return " ".join((text or "").split(maxsplit=count)[:count])


def first_sentences(text: str, max_words: int = PASSAGE_WORDS) -> str:
    """As many whole sentences from the start as fit; empty if the first one does not."""
    opening = first_words(text, max_words + 1)
    if len(opening.split()) <= max_words:
        return opening
    ends = [match.end() for match in _SENTENCE_END.finditer(opening)]
    whole = [end for end in ends if not _ABBREVIATION.search(opening[max(0, end - 12) : end])]
    return opening[: whole[-1]].rstrip() if whole else ""


def headline_prompt(text: str) -> Conversation:
    content = f"Write a headline for this article:\n\n{first_words(text, ARTICLE_WORDS)}"
    return [{"role": "user", "content": content}]


def headline_conversation(document: Document) -> Conversation | None:
    """Article → headline; None for a document without a usable title."""
    title = clean_title(document["title"], document["url"])
    if not title or not (document["text"] or "").strip():
        return None
    return [*headline_prompt(document["text"]), {"role": "assistant", "content": title}]


def passage_conversation(document: Document) -> Conversation | None:
    """Question about a headline → the first sentences of its article; None if either is missing."""
    title = clean_title(document["title"], document["url"])
    passage = first_sentences(document["text"])
    if not title or not passage:
        return None
    return [
        {"role": "user", "content": question_about(title)},
        {"role": "assistant", "content": passage},
    ]
