"""What two engines make of one HTML page: its title and its main text, and how large and deep it is.

resiliparse (https://resiliparse.chatnoir.eu) judges elements by their tags and names, in C++: eight times as
fast as trafilatura, and as good on pages that are mostly article; on others it lets menus, comments and
teasers through. trafilatura (without its fallbacks) looks for the article, and on some pages loses most of
it. docs/log.md has the figures behind the two shares.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

TITLE_CHARACTERS = 300
MOSTLY_ARTICLE = 0.5
"""Share of a page's text above which resiliparse's choice stands: trafilatura would not choose better."""
LOST = 0.6
"""trafilatura found less than this share of what resiliparse found: it lost text."""
NESTING_TAG = re.compile(
    r"<(/?)(?!(?:area|base|br|col|dd|dt|embed|hr|img|input|li|link|meta|option|p|param|source|tbody|td|th|tr"
    r"|track|wbr)[\s/>])[a-z]",
    re.IGNORECASE,
)
"""Tags of elements that nest: neither void nor closed by the next of their kind."""
ANY_TAG = re.compile("<[a-zA-Z]")


def nesting(html: str, enough: int = 0) -> int:
    """How deep the elements nest, from the tags alone; no closer look where there are at most `enough` tags.
    Elements that are never closed count too."""
    if html.count("<") <= enough:
        return 0
    tags = NESTING_TAG.findall(html)
    if not tags:
        return 0
    level = np.where(np.array(tags, "U1") == "/", -1, 1).cumsum()
    return int((level - np.minimum.accumulate(np.minimum(level, 0))).max())


def elements(tree: HTMLTree) -> int:
    return len(_found(tree, "*"))


def title(tree: HTMLTree) -> str:
    """`og:title` (without the site's name), else `<title>`, else the first `<h1>`."""
    named, headings = _found(tree, "meta[property='og:title']"), _found(tree, "h1")
    found = (
        str(named[0].getattr("content") or "") if named else "",
        tree.title or "",
        str(headings[0].text or "") if headings else "",
    )
    return next(filter(None, (" ".join(text.split()) for text in found)), "")[:TITLE_CHARACTERS]


def _found(tree: HTMLTree, selector: str) -> Any:
    return tree.document.query_selector_all(selector) if tree.document is not None else []


def fast_text(tree: HTMLTree, main_content: bool = True) -> str:
    """The main text, or all that a reader could see, by resiliparse."""
    text: str = extract_plain_text(tree, main_content=main_content, list_bullets=False, alt_texts=False)
    return text


def quality_text(html: str, tree: HTMLTree, url: str) -> str:
    """The main text by resiliparse where that is most of the page's text, else by the better of both."""
    import trafilatura

    fast = fast_text(tree)
    if len(fast) > MOSTLY_ARTICLE * len(fast_text(tree, main_content=False)):
        return fast
    careful = trafilatura.extract(html, url=url or None, fast=True, include_comments=False) or ""
    return careful if len(careful) >= LOST * len(fast) else fast
