"""Text of an EPUB book (EPUB 3.3, https://www.w3.org/TR/epub-33/): the chapters of its spine, in order.

The navigation document and parts that are not linear are left out. Chapters go through the same
HTML-to-text engine as web pages, but whole: a book has no menus.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from headwater.data_pipeline.formats.package import Package, joined_path
from headwater.data_pipeline.formats.result import Converted, Unconvertible
from headwater.data_pipeline.text.charset import decode_html
from headwater.data_pipeline.text.main_text import page

CHAPTER = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")
FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
"""Algorithms that only disguise fonts."""
DEEPEST = 2000


def epub_text(content: bytes, max_characters: int) -> Converted:
    """Raises Unconvertible, as Package and: not_epub, encrypted, no_text, html_too_deep."""
    package = Package(content, 4 * max_characters)
    _refuse_protected(package)
    roots = [each.get("full-path") for each in package.xml("META-INF/container.xml").iter("{*}rootfile")]
    if not roots or not roots[0]:
        raise Unconvertible("not_epub", "META-INF/container.xml names no package document")
    book = package.xml(roots[0])
    folder = roots[0].rpartition("/")[0]
    parts = {each.get("id"): each for each in book.iter("{*}item")}
    chapters: list[str] = []
    for reference in book.iter("{*}itemref"):
        part = parts.get(reference.get("idref"))
        if part is None or reference.get("linear") == "no" or not _is_chapter(part):
            continue
        chapters.append(_chapter(package.read(joined_path(folder, unquote(part.get("href") or "")))))
    text = "\n\n".join(chapter for chapter in chapters if chapter)
    if not text:
        raise Unconvertible("no_text", "no chapter has text")
    if len(text) > max_characters:
        raise Unconvertible("too_large", f"more than {max_characters:,} characters")
    titles = [
        " ".join((each.text or "").split()) for each in book.iter("{http://purl.org/dc/elements/1.1/}title")
    ]
    return Converted(next(filter(None, titles), ""), text)


def _refuse_protected(package: Package) -> None:
    if "META-INF/encryption.xml" not in package:
        return
    for method in package.xml("META-INF/encryption.xml").iter("{*}EncryptionMethod"):
        if method.get("Algorithm") not in FONTS and method.getparent().tag.endswith("}EncryptedData"):
            raise Unconvertible("encrypted", f"its chapters are encrypted ({method.get('Algorithm')})")


def _is_chapter(part: Any) -> bool:
    return part.get("media-type") in CHAPTER and "nav" not in (part.get("properties") or "").split()


def _chapter(content: bytes) -> str:
    html = decode_html(content)
    if page.nesting(html, DEEPEST) > DEEPEST:
        raise Unconvertible("html_too_deep", f"more than {DEEPEST:,} elements in one another")
    return page.fast_text(page.HTMLTree.parse(html), main_content=False).strip()
