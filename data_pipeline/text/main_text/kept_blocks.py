"""Tables, code and formulas of a page, kept readable through the extraction of its main text.

The engines flatten tables, drop the lines of code and spell a formula's signs one by one. Each block is
therefore replaced by a word before they run, and the word by the block's text afterwards: a table is rows
with ` | ` between cells, code is between lines of three backticks, a formula is its TeX between dollar signs.
A block that an engine drops, as part of a menu, is dropped with its word.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from typing import Any, Literal

from lxml import etree
from lxml.html import document_fromstring, tostring

Kind = Literal["tables", "code", "formulas"]
WORD = "keptblock{}x{}"
MAX_ROWS, CELL_CHARACTERS = 1000, 300
"""A table with more rows, or with a longer cell, is layout rather than data: the engines read it."""
CLASS = "contains(concat(' ', @class, ' '), ' {} ')"
FORMULAS = " | ".join(
    (
        f"//*[{CLASS.format('katex')} or {CLASS.format('mwe-math-element')}]",
        "//math",
        "//script[starts-with(@type, 'math/tex')]",
        f"//img[{CLASS.format('tex')} or {CLASS.format('latex')}]",
    )
)
ANNOTATIONS = ".//annotation[contains(@encoding, 'tex') or contains(@encoding, 'TeX')]"
DISPLAY = re.compile(r"^\{\\(?:display|text)style\s*(.*)\}$", re.DOTALL)
BLANKS = re.compile(r"\s+")


def with_words(html: str, keep: Collection[Kind]) -> tuple[str, dict[str, str]]:
    """The page with a word in the place of each block, and the text of each word.

    The page as it was if it has no block, or cannot be parsed.
    """
    try:
        tree = document_fromstring(html)
    except (etree.LxmlError, ValueError, AssertionError):
        return html, {}
    name = hashlib.blake2b(html.encode("utf-8", "replace"), digest_size=5).hexdigest()
    blocks: dict[str, str] = {}
    for element, text, inline in _blocks(tree, keep):
        word = WORD.format(name, len(blocks))
        blocks[word] = with_blocks(text, blocks)  # a cell may hold a formula
        new = etree.Element("span" if inline else "p")
        new.text, new.tail = f" {word} " if inline else word, element.tail
        element.getparent().replace(element, new)
    return (tostring(tree, encoding="unicode"), blocks) if blocks else (html, {})


def with_blocks(text: str, blocks: dict[str, str]) -> str:
    """The extracted text with each word replaced by its block."""
    if not blocks:
        return text
    prefix = next(iter(blocks)).rpartition("x")[0]

    def block(found: re.Match[str]) -> str:
        known = blocks.get(found.group(1))
        if known is None:
            return found.group()
        return f"\n\n{known}\n\n" if "\n" in known else found.group().replace(found.group(1), known)

    return re.sub(rf"[ \t]*\b({prefix}x\d+)\b[ \t]*", block, text)


def _blocks(tree: Any, keep: Collection[Kind]) -> Iterator[tuple[Any, str, bool]]:
    """Elements with their text, and whether they stand within a line. Formulas come first: cells have
    some."""
    for kind, path, read in (
        ("formulas", FORMULAS, _formula),
        ("code", "//pre", _code),
        ("tables", "//table", _table),
    ):
        for element in tree.xpath(path) if kind in keep else ():
            whole = element.getroottree().getroot()
            if whole is tree and element is not tree and (text := read(element)):
                yield element, text, kind == "formulas"


def _formula(element: Any) -> str:
    """TeX of a formula: of its annotation, its attribute, its script or its image; empty if it has none."""
    if element.tag == "script":
        found = element.text or ""
    elif element.tag == "img":
        found = element.get("alt") or ""
    else:
        texts = [each.text or "" for each in element.xpath(ANNOTATIONS)]
        texts += [each.get("alttext") or "" for each in [element, *element.xpath(".//math")]]
        found = next(filter(None, texts), "")
    found = BLANKS.sub(" ", DISPLAY.sub(r"\1", found.strip())).strip(" $")
    return f"${found}$" if found else ""


def _code(element: Any) -> str:
    for line_end in element.xpath(".//br"):
        line_end.tail = "\n" + (line_end.tail or "")
    code = "".join(element.itertext()).strip("\n").rstrip()
    return f"```\n{code}\n```" if code.strip() else ""


def _table(element: Any) -> str:
    """Rows of a table of data; empty for a table of layout."""
    rows = element.xpath("./tr | ./thead/tr | ./tbody/tr | ./tfoot/tr")
    if element.xpath(".//table") or not 2 <= len(rows) <= MAX_ROWS:
        return ""
    found = [
        [BLANKS.sub(" ", "".join(cell.itertext())).strip() for cell in row.xpath("./td | ./th")]
        for row in rows
    ]
    if max(map(len, found)) < 2 or any(len(cell) > CELL_CHARACTERS for row in found for cell in row):
        return ""
    return "\n".join(" | ".join(row) for row in found if any(row))
