"""Extracts main text and title from a page's HTML.

A learnt model (block_model.py) or rules (page.py) find the text. Pages are parsed in a child process of the
worker, so that a page that takes too long, uses too much memory or crashes the parser is rejected alone, with
a reason.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

from pydantic import Field

from headwater.cluster.runtime.stage import StageConfig, unkeyed
from headwater.data_pipeline.text.charset import decode_html
from headwater.data_pipeline.text.child import Child, ChildFailed
from headwater.data_pipeline.text.main_text.kept_blocks import with_blocks, with_words
from headwater.data_pipeline.verdict import Rejection

WARM_UP = b"<html><body><p>Loads the libraries.</p></body></html>"


class ExtractConfig(StageConfig):
    """Settings of main text extraction from HTML. Plain text is only normalised (text/normalise.py)."""

    enabled: bool = True
    """Extract text from HTML. If off, HTML documents are rejected and plain text passes."""
    setting: Literal["quality", "fast"] = "quality"
    """`quality` judges each block of a page by a learnt model. `fast` uses resiliparse's rules: three times
    the speed, but more menus and comments in the texts."""
    keep: tuple[Literal["tables", "code", "formulas"], ...] = Field(default=(), exclude_if=unkeyed(()))
    """What stays readable in the text: `tables` as rows with ` | ` between cells, `code` with its lines
    between lines of three backticks, `formulas` as TeX between dollar signs."""
    repair: bool = False
    """Restore quotes and dashes that a wrong decoding turned into `"?`. Use it only for prose with this
    damage, because `"?` can be correct in code."""
    max_characters: int = Field(default=5_000_000, gt=0)
    """Maximum characters of a text (a novel has about 600,000). Longer texts are rejected, and truncated to
    this length among the rejected documents."""
    max_html_bytes: int = Field(default=8_000_000, gt=0)
    """Maximum bytes of a page. Larger pages are rejected unparsed."""
    max_elements: int = Field(default=200_000, gt=0)
    """Maximum number of elements in a page. Pages with more are rejected."""
    max_nesting: int = Field(default=4_000, gt=0)
    """Maximum nesting depth of elements. Deeper pages are rejected unparsed; browsers stop at 512."""
    timeout_seconds: float = Field(default=20.0, gt=0)
    """Timeout per page, in seconds. Pages that take longer are rejected."""


class MainText(NamedTuple):
    title: str
    text: str
    licence: str


def main_text(html: bytes, url: str, config: ExtractConfig) -> MainText | Rejection:
    """Title, main text and licence of a page, computed in this process without a timeout."""
    from lxml import etree
    from resiliparse.parse.html import HTMLParserException

    from headwater.data_pipeline.text.main_text import page
    from headwater.data_pipeline.text.main_text.block_model import quality_text

    if len(html) > config.max_html_bytes:
        return Rejection("html_too_large", len(html), config.max_html_bytes)
    decoded = decode_html(html)
    if not page.ANY_TAG.search(decoded):
        return Rejection("not_html")
    if (deep := page.nesting(decoded, config.max_nesting)) > config.max_nesting:
        return Rejection("html_too_deep", deep, config.max_nesting)
    try:
        tree = page.HTMLTree.parse(decoded)
        elements = page.elements(tree)
        if elements > config.max_elements:
            return Rejection("html_too_many_elements", elements, config.max_elements)
        title, licence = page.title(tree), page.licence(tree)
        blocks: dict[str, str] = {}
        if config.keep:
            decoded, blocks = with_words(decoded, config.keep)
        if config.setting == "quality":
            text = quality_text(decoded, title, blocks)
        else:
            text = page.fast_text(page.HTMLTree.parse(decoded) if blocks else tree)
            text = with_blocks(text, blocks)
    except (
        etree.LxmlError,
        HTMLParserException,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
        MemoryError,
        AssertionError,
    ):
        logging.getLogger(__name__).debug("extraction failed: %s", url, exc_info=True)
        return Rejection("extract_failed")
    return MainText(title, text, licence) if text.strip() else Rejection("no_main_text")


class Extractor:
    """Runs `main_text` in a child process with time and memory limits. Started at the first page."""

    def __init__(self, config: ExtractConfig) -> None:
        self._config = config
        self._child = Child(f"{__name__}:_answer", config.timeout_seconds, (WARM_UP, "", config))

    def __call__(self, html: bytes, url: str) -> MainText | Rejection:
        if len(html) > self._config.max_html_bytes:
            return Rejection("html_too_large", len(html), self._config.max_html_bytes)
        try:
            found = self._child(html, url, self._config)
        except ChildFailed as failed:
            seconds = self._config.timeout_seconds
            return (
                Rejection("extract_timeout", seconds, seconds)
                if failed.timeout
                else Rejection("extract_failed")
            )
        return Rejection(**found) if isinstance(found, dict) else MainText(*found)

    def close(self) -> None:
        self._child.close()


def _answer(html: bytes, url: str, config: ExtractConfig) -> MainText | dict[str, Any]:
    """`main_text` with a rejection as a dict, which is JSON."""
    found = main_text(html, url, config)
    return asdict(found) if isinstance(found, Rejection) else found
