"""MediaWiki's wikitext → plain text: what a reader sees as running text.

Templates, tables, references, files and categories are left out; links keep their labels, lists a dash,
formulas their TeX and code its lines. Every rule takes linear time, so that no page can block a reader.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection

COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
OPENING = re.compile(
    r"<(nowiki|pre|syntaxhighlight|source|code|math|chem|ref|references|gallery|timeline|score|imagemap|"
    r"templatedata|graph|mapframe)\b([^<>]*)>",
    re.IGNORECASE,
)
KEPT = {"nowiki", "pre", "syntaxhighlight", "source", "code", "math", "chem"}
FORMULAS = {"math", "chem"}
NESTED = re.compile(r"\{\{|\}\}|\{\||\|\}|\[\[|\]\]")
CLOSES = {"}}": "{{", "|}": "{|", "]]": "[["}
DROPPED_LINKS = ("file", "image", "media", "category")
LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(-[a-z]+)?$")
EXTERNAL = re.compile(r"\[(?:https?:|ftp:)?//[^\s\[\]]++[ \t]*+([^\[\]\n]*+)\]")
MARKS = re.compile(r"'{2,5}|__[A-Z]+__")
BREAK = re.compile(r"<br\b[^<>]*>", re.IGNORECASE)
TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
HEADING = re.compile(r"^(={1,6})([^\n]*?)={1,6}[ \t]*$", re.MULTILINE)
ITEM = re.compile(r"^[*#][*#:;]*[ \t]*", re.MULTILINE)
INDENT = re.compile(r"^[:;]+[ \t]*", re.MULTILINE)
BLANK = re.compile(r"\n{3,}")
HELD = re.compile("\x00(\\d+)\x00")


def plain_text(wikitext: str, namespaces: Collection[str] = ()) -> str:
    """Plain text of a page. `namespaces`: names of the wiki's namespaces of files and categories, lower case,
    in addition to the English ones."""
    held: list[str] = []
    text = _without_blocks(COMMENT.sub("", wikitext.replace("\0", "")), held)
    text = _without_nested(text, (*DROPPED_LINKS, *namespaces))
    text = EXTERNAL.sub(r"\1", MARKS.sub("", text))
    text = TAG.sub("", BREAK.sub("\n", text))
    text = HEADING.sub(lambda found: found.group(2).strip("= \t"), text)
    text = html.unescape(INDENT.sub("", ITEM.sub("- ", text)))
    text = HELD.sub(lambda found: held[int(found.group(1))], text)
    return BLANK.sub("\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()


def _without_blocks(text: str, held: list[str]) -> str:
    """The text with blocks of code and formulas replaced by their places in `held`, and others left out."""
    pieces, place = [], 0
    lower = text.lower()
    unclosed: set[str] = set()
    while (opening := OPENING.search(text, place)) is not None:
        name = opening.group(1).lower()
        pieces.append(text[place : opening.start()])
        place = opening.end()
        if opening.group(2).rstrip().endswith("/") or name in unclosed:
            continue
        end = lower.find(f"</{name}", place) if len(lower) == len(text) else text.find(f"</{name}", place)
        if end < 0:
            unclosed.add(name)
            continue
        if name in KEPT:
            content = html.unescape(text[place:end])
            content = f"${content.strip()}$" if name in FORMULAS else content
            pieces.append(f"\0{len(held)}\0")
            held.append(content.replace("\0", ""))
        close = text.find(">", end)
        place = close + 1 if close >= 0 else len(text)
    return "".join([*pieces, text[place:]])


def _without_nested(text: str, dropped: Collection[str]) -> str:
    """Templates and tables left out, links as their labels."""
    frames: list[tuple[str, list[str]]] = [("", [])]
    place = 0
    for token in NESTED.finditer(text):
        if token.start() < place:
            continue
        frames[-1][1].append(text[place : token.start()])
        place, mark = token.end(), token.group()
        if mark not in CLOSES:
            frames.append((mark, []))
        elif frames[-1][0] == CLOSES[mark]:
            _, pieces = frames.pop()
            if mark == "]]":
                frames[-1][1].append(_label("".join(pieces), dropped))
    left = [piece for _, pieces in frames for piece in pieces]  # what was never closed is text
    return "".join([*left, text[place:]])


def _label(link: str, dropped: Collection[str]) -> str:
    target, bar, label = link.partition("|")
    space, colon, _ = target.partition(":")
    if colon and space.strip().lower() in dropped:
        return ""
    if colon and not bar and LANGUAGE_LINK.match(space):
        return ""
    return label.strip() or target.lstrip(":").strip()
