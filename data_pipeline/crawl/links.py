"""Links of a page, of a sitemap (https://www.sitemaps.org/protocol.html) and of an RSS or Atom feed."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

from headwater.data_pipeline.text.charset import decode_declared, decode_html

MAX_LINKS = 2_000
"""Links of a page that are followed."""
XML_BYTES, XML_LINKS = 50 << 20, 50_000
"""Size and links of a sitemap, after the protocol; longer ones are cut."""
TAGS = ("meta", "base", "link", "a", "area", "iframe", "frame")
PAGE_END = re.compile(r"</(?:html|body)\s*>", re.IGNORECASE)
"""Tags after which libxml2 stops; browsers go on."""
FEEDS = ("application/rss+xml", "application/atom+xml")


@dataclass
class PageLinks:
    links: list[str] = field(default_factory=list)
    feeds: list[str] = field(default_factory=list)
    metas: list[tuple[str, str]] = field(default_factory=list)
    """Names and contents of its `<meta>` tags."""
    base: str = ""
    licence: str = ""


def page_links(content: bytes, charset: str | None, *, nofollow: bool) -> PageLinks:
    """Links of an HTML page as they are written, in the order of the page. `nofollow`: also those marked
    `rel=nofollow`. A page that cannot be parsed has none."""
    html = decode_declared(content, charset) if charset else None
    parser = etree.HTMLParser(encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True)
    try:
        text = html if html is not None else decode_html(content)
        root = etree.fromstring(PAGE_END.sub("", text).encode("utf-8", "replace"), parser)
    except etree.LxmlError:
        root = None
    found = PageLinks()
    for element in root.iter(*TAGS) if root is not None else ():
        _take(element, found, nofollow)
        if len(found.links) >= MAX_LINKS:
            break
    return found


def _take(element: Any, found: PageLinks, nofollow: bool) -> None:
    """Add what one element says."""
    tag, get = element.tag, element.get
    if tag == "meta":
        if name := get("name"):
            found.metas.append((name, get("content") or ""))
        return
    href = get("src" if tag in ("iframe", "frame") else "href") or ""
    if tag == "base":
        found.base = found.base or href
        return
    relations = (get("rel") or "").lower().split()
    if "license" in relations:
        found.licence = found.licence or href
    if tag == "link":
        if "alternate" in relations and (get("type") or "").lower() in FEEDS:
            found.feeds.append(href)
        elif not {"next", "canonical"}.isdisjoint(relations):
            found.links.append(href)
    elif href and not href.startswith("#") and (nofollow or "nofollow" not in relations):
        found.links.append(href)


def xml_links(content: bytes) -> tuple[list[str], list[str]]:
    """Pages and further sitemaps that a sitemap, a sitemap index, a feed or a list of URLs names.

    Entities are not expanded and nothing else is loaded; a damaged file gives what stands before the damage.
    """
    pages: list[str] = []
    maps: list[str] = []
    content = content[:XML_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not content.startswith(b"<"):
        lines = content.decode("utf-8", "replace").split()
        return [line for line in lines if line.startswith(("http://", "https://"))][:XML_LINKS], []
    events = etree.iterparse(
        io.BytesIO(content), events=("end",), resolve_entities=False, no_network=True, huge_tree=False
    )
    try:
        for _, element in events:
            name = etree.QName(element).localname if isinstance(element.tag, str) else ""
            parent = element.getparent()
            above = etree.QName(parent).localname if parent is not None else ""
            if name == "loc" and above in ("url", "sitemap"):
                (pages if above == "url" else maps).append((element.text or "").strip())
            elif name == "link" and above in ("item", "entry"):
                if element.get("rel", "alternate") == "alternate":
                    pages.append((element.get("href") or element.text or "").strip())
            elif name in ("url", "sitemap", "item", "entry"):
                element.clear()
                while parent is not None and element.getprevious() is not None:
                    del parent[0]
            if len(pages) + len(maps) >= XML_LINKS:
                break
    except etree.XMLSyntaxError:
        pass
    return list(filter(None, pages)), list(filter(None, maps))
