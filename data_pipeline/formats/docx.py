"""Text of a Word document (ISO/IEC 29500-1, WordprocessingML): paragraphs, lists, tables and notes in order.

Deleted text of tracked changes, field codes, comments, headers and footers are left out. A row of a table is
a line with ` | ` between its cells.
"""

from __future__ import annotations

from typing import Any

from headwater.data_pipeline.formats.package import Package, joined_path
from headwater.data_pipeline.formats.result import Converted, Unconvertible

OFFICE_DOCUMENT = "/officeDocument"
"""End of the relationship type of the main part, in both editions of the standard."""
SKIPPED = {"del", "moveFrom", "instrText", "delText", "Fallback", "commentReference", "rPr", "pPr", "sectPr"}
BREAKS = {"tab": " ", "br": "\n", "cr": "\n", "noBreakHyphen": "-", "ptab": " "}
DEEPEST = 200


def docx_text(content: bytes, max_characters: int) -> Converted:
    """Raises Unconvertible, as Package and: not_docx, no_text, too_deep."""
    if content.startswith(b"\xd0\xcf\x11\xe0"):  # a compound file around an encrypted package, or a .doc
        raise Unconvertible("encrypted", "an encrypted document, or one of Word 97-2003")
    package = Package(content, 4 * max_characters)
    main = _main_part(package)
    body = next((child for child in package.xml(main) if _name(child) == "body"), None)
    if body is None:
        raise Unconvertible("not_docx", f"{main} has no body")
    blocks = _blocks(body, 0)
    for notes in ("footnotes.xml", "endnotes.xml"):
        name = joined_path(main.rpartition("/")[0], notes)
        if name in package:
            for note in package.xml(name):
                if not note.get(_attribute(note, "type")):  # separators have one
                    blocks += _blocks(note, 0)
    text = "\n\n".join(block for block in blocks if block.strip())
    if not text:
        raise Unconvertible("no_text", "the document has no text")
    return Converted(_title(package), text)


def _main_part(package: Package) -> str:
    for relation in package.xml("_rels/.rels"):
        if (relation.get("Type") or "").endswith(OFFICE_DOCUMENT):
            found = joined_path("", relation.get("Target") or "")
            if not found.endswith(".xml") or "word" not in found:
                raise Unconvertible("not_docx", f"the main part is {found}")
            return found
    raise Unconvertible("not_docx", "no main part")


def _title(package: Package) -> str:
    if "docProps/core.xml" not in package:
        return ""
    found = [child.text or "" for child in package.xml("docProps/core.xml") if _name(child) == "title"]
    return " ".join(found[0].split()) if found else ""


def _blocks(parent: Any, depth: int) -> list[str]:
    """Paragraphs and tables below an element."""
    if depth > DEEPEST:
        raise Unconvertible("too_deep", f"more than {DEEPEST} tables or boxes in one another")
    blocks: list[str] = []
    for child in parent:
        name = _name(child)
        if name == "p":
            blocks.append(_paragraph(child, depth))
        elif name == "tbl":
            rows = [_row(row, depth) for row in _all(child, "tr")]
            blocks.append("\n".join(row for row in rows if row.strip(" |")))
        elif name not in SKIPPED:
            blocks += _blocks(child, depth + 1)
    return blocks


def _row(row: Any, depth: int) -> str:
    return " | ".join(" ".join(" ".join(_blocks(cell, depth + 1)).split()) for cell in _all(row, "tc"))


def _all(parent: Any, wanted: str) -> list[Any]:
    """The nearest elements of this name, through content controls and the like."""
    found: list[Any] = []
    waiting = list(reversed(parent))
    while waiting:
        child = waiting.pop()
        if _name(child) == wanted:
            found.append(child)
        elif _name(child) not in {"tbl", *SKIPPED}:
            waiting += reversed(child)
    return found


def _paragraph(paragraph: Any, depth: int) -> str:
    pieces: list[str] = []
    boxes: list[str] = []
    listed = False
    waiting = list(reversed(paragraph))
    while waiting:
        child = waiting.pop()
        name = _name(child)
        if name == "t":
            pieces.append(child.text or "")
        elif name in BREAKS:
            pieces.append(BREAKS[name])
        elif name == "pPr":
            listed = any(_name(each) == "numPr" for each in child)
        elif name == "txbxContent":
            boxes += _blocks(child, depth + 1)
        elif name not in SKIPPED:
            waiting += reversed(child)
    text = "".join(pieces).strip()
    return "\n\n".join([f"- {text}" if listed and text else text, *boxes]).strip()


def _name(element: Any) -> str:
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _attribute(element: Any, name: str) -> str:
    """The attribute's name in the namespace of its element."""
    return f"{element.tag.rpartition('}')[0]}}}{name}" if isinstance(element.tag, str) else name
