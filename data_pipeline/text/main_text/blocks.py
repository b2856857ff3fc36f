"""Blocks of an HTML page: runs of text between the tags of block elements, and the elements around them.

Both lists are in document order, so an element's blocks are one range, and sums over elements are differences
of running sums (block_features.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lxml import etree

INLINE = frozenset((
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font",
    "i", "img", "ins", "kbd", "mark", "nobr", "picture", "q", "rp", "rt", "ruby", "s", "samp", "small",
    "source", "span", "strike", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr",
))  # fmt: skip
SKIPPED = frozenset((
    "audio", "canvas", "datalist", "embed", "frame", "iframe", "map", "math", "noembed", "noframes",
    "object", "optgroup", "option", "script", "select", "style", "svg", "template", "textarea", "title",
    "video",
))  # fmt: skip
"""Elements whose text is not shown, or is a control's. Removed before the page is read."""
TAGS = (
    "p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "li", "dd", "dt", "td", "th", "tr",
    "figcaption", "summary", "label", "button", "div", "section", "article", "main", "header", "footer",
    "nav", "aside", "form", "ul", "ol", "dl", "table", "tbody", "thead", "center", "body", "html",
)  # fmt: skip
"""Tags that features tell apart, in an order of which only neighbours may share a branch of a tree."""
TAG_CODE = {tag: code for code, tag in enumerate(TAGS)}
OTHER_TAG = len(TAGS)
CELLS = {TAG_CODE["td"], TAG_CODE["th"]}
FLAGS = {
    "nav": 1, "header": 2, "footer": 4, "aside": 8, "article": 16, "main": 32, "form": 64, "figure": 128,
    "table": 256, "ul": 512, "ol": 512, "button": 1024, "dialog": 2048, "details": 4096, "blockquote": 8192,
    "noscript": 16384,
}  # fmt: skip
"""Bits of elements that say something about all text in them."""
HIDDEN = 32768
HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
SCHEMA_TYPE = re.compile(r'"@type"\s*:\s*\[?\s*"(\w+)"')
OPEN_GRAPH_ARTICLE = re.compile(r"og:type[\"'][^>]{0,40}article", re.IGNORECASE)
KINDS = (
    frozenset({"Article", "NewsArticle", "BlogPosting", "ReportageNewsArticle", "TechArticle", "Report"}),
    frozenset({"DiscussionForumPosting", "QAPage", "Question"}),
    frozenset({"Product", "ProductGroup"}),
)
"""What a page says that it is (schema.org): an article, a discussion, a product."""
LINE = "\ue000"
"""Stands for `<br>` until blanks are collapsed."""
PARSER = {"remove_comments": True, "remove_pis": True, "encoding": "utf-8", "huge_tree": True}


@dataclass
class Blocks:
    """A page as blocks and block elements ("nodes"). Node 0 is the body; a node's parent stands before it."""

    text: list[str] = field(default_factory=list)
    node: list[int] = field(default_factory=list)
    """Innermost node of each block."""
    link_characters: list[int] = field(default_factory=list)
    tag: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    """First block of each node; its blocks end before `end`."""
    end: list[int] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    """Bits of the node and of all around it."""
    name: list[str] = field(default_factory=list)
    """Class, id and role of each node, separated by blanks."""
    kinds: tuple[bool, ...] = ()
    """Whether the page says that it is of each of KINDS, or an article (Open Graph)."""


def read_blocks(html: str) -> Blocks:
    """Blocks of a page; none if it has no body. Raises lxml's errors."""
    types = set(SCHEMA_TYPE.findall(html))
    page = Blocks(kinds=(*(bool(types & kind) for kind in KINDS), bool(OPEN_GRAPH_ARTICLE.search(html))))
    root = etree.fromstring(html.encode("utf-8", "replace"), etree.HTMLParser(**PARSER))
    body = None if root is None else root.find("body")
    if body is not None:
        etree.strip_elements(body, *SKIPPED, with_tail=False)
        _read(body, page)
    return page


def _read(body: Any, page: Blocks) -> None:
    pieces: list[str] = []
    linked = [0]  # characters in links since the last block
    links = 0  # links open here
    here, ends = -1, page.end
    tag_code, flag_of, names, flags = TAG_CODE.get, FLAGS.get, page.name, page.flags

    def flush() -> None:
        if not pieces:
            return
        text = "".join(pieces)
        pieces.clear()
        if here >= 0 and page.tag[here] == TAG_CODE["pre"]:
            text = text.replace(LINE, "\n").strip("\n").rstrip()
        elif LINE in text:
            lines = (" ".join(line.split()) for line in text.split(LINE))
            text = "\n".join(filter(None, lines))
        else:
            text = " ".join(text.split())
        if text.strip():
            page.text.append(text)
            page.node.append(here)
            page.link_characters.append(min(linked[0], len(text)))
        linked[0] = 0

    for event, element in etree.iterwalk(body, events=("start", "end")):
        tag = element.tag
        if event == "start":
            text = element.text
            if tag == "a":
                links += 1
            elif tag == "br":
                pieces.append(LINE)
            elif tag not in INLINE:
                flush()
                get = element.get
                own = flag_of(tag, 0)
                style = get("style")
                if (style and HIDDEN_STYLE.search(style)) or get("hidden") is not None:
                    own |= HIDDEN
                page.parent.append(here)
                page.depth.append(page.depth[here] + 1 if here >= 0 else 0)
                flags.append(flags[here] | own if here >= 0 else own)
                names.append(f"{get('class') or ''} {get('id') or ''} {get('role') or ''}")
                page.tag.append(tag_code(tag, OTHER_TAG))
                page.first.append(len(page.text))
                ends.append(0)
                here = len(ends) - 1
        else:
            text = element.tail if element is not body else None
            if tag == "a":
                links = max(0, links - 1)
            elif tag not in INLINE and tag != "br":
                flush()
                ends[here] = len(page.text)
                here = page.parent[here]
        if text:
            pieces.append(text)
            if links:
                linked[0] += len(text.strip())


def joined(page: Blocks, kept: list[int]) -> str:
    """Text of the blocks with the given numbers: cells of a row and lines of a list on one line or on lines
    that follow each other, other blocks with an empty line between."""
    if not kept:
        return ""
    parts = [page.text[kept[0]]]
    for before, now in pairwise(kept):
        parts.append(_between(page, page.node[before], page.node[now]))
        parts.append(page.text[now])
    return "".join(parts)


def _between(page: Blocks, before: int, now: int) -> str:
    tags = {page.tag[before], page.tag[now]}
    siblings = page.parent[before] == page.parent[now]
    if tags <= CELLS:
        return " " if siblings else "\n"
    return "\n" if siblings and tags == {TAG_CODE["li"]} else "\n\n"
