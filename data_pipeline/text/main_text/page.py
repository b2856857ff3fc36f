"""Title, licence and visible text of an HTML page, its number and depth of elements, and main text by rules.

resiliparse (https://resiliparse.chatnoir.eu) classifies elements by tags and names, in C++: fast, but it
keeps menus, comments and teasers of some pages. More careful is block_model.py.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

TITLE_CHARACTERS = 300
NESTING_TAG = re.compile(
    r"<(/?)(?!(?:area|base|br|col|dd|dt|embed|hr|img|input|li|link|meta|option|p|param|source|tbody|td|th|tr"
    r"|track|wbr)[\s/>])[a-z]",
    re.IGNORECASE,
)
"""Tags of elements that nest: neither void nor closed by the next element of the same kind."""
ANY_TAG = re.compile("<[a-zA-Z]")
CREATIVE_COMMONS = re.compile(
    r"creativecommons\.org/(?:licenses|publicdomain)/(by(?:-nc)?(?:-nd|-sa)?|zero|mark)(?:/(\d\.\d))?(?![\w-])"
)
CC_KINDS = {"zero": "cc0", "mark": "pdm"}
LICENCE_CHARACTERS = 500


def nesting(html: str, enough: int = 0) -> int:
    """Nesting depth of elements, from the tags alone; unclosed elements count. Pages with at most `enough`
    tags are not examined further."""
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


def licence(tree: HTMLTree) -> str:
    """The licence that the page names: a link marked `rel=license`, else one to Creative Commons' licences.
    Theirs are named as `cc-by-sa-4.0`, `cc0-1.0` or `pdm-1.0` (public domain mark); another is its URL."""
    for selector in ("[rel~='license' i]", "a[href*='creativecommons.org/' i]"):
        for element in _found(tree, selector):
            href = str(element.getattr("href") or "").strip()
            if known := CREATIVE_COMMONS.search(href.lower()):
                kind = CC_KINDS.get(known[1]) or f"cc-{known[1]}"
                return f"{kind}-{known[2]}" if known[2] else kind
            if selector.startswith("[rel") and href.lower().startswith(("http://", "https://")):
                return href[:LICENCE_CHARACTERS]
    return ""


def _found(tree: HTMLTree, selector: str) -> Any:
    return tree.document.query_selector_all(selector) if tree.document is not None else []


def fast_text(tree: HTMLTree, main_content: bool = True) -> str:
    """Main text by resiliparse, or all visible text without `main_content`."""
    text: str = extract_plain_text(tree, main_content=main_content, list_bullets=False, alt_texts=False)
    return text
