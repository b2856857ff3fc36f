"""Extracts main text and title from a page's HTML.

Uses two engines (text/page.py). Pages are parsed in a child process of the worker, so that a page that
takes too long, uses too much memory or crashes the parser is rejected alone, with a reason.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import resource
import signal
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from typing import Literal

from pydantic import Field

from headwater.cluster.runtime.stage import StageConfig
from headwater.data_pipeline.text.charset import decode_html
from headwater.data_pipeline.verdict import Rejection

CHILD_MEMORY_BYTES = 4 << 30


class ExtractConfig(StageConfig):
    """Settings of main text extraction from HTML. Plain text is only normalised (text/normalise.py)."""

    enabled: bool = True
    """Extract text from HTML. If off, HTML documents are rejected and plain text passes."""
    setting: Literal["quality", "fast"] = "quality"
    """`quality` uses resiliparse and trafilatura. `fast` omits trafilatura: about three times the speed, but
    more menus and comments in the texts."""
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


def main_text(html: bytes, url: str, config: ExtractConfig) -> tuple[str, str] | Rejection:
    """Title and main text of a page, computed in this process without a timeout."""
    from lxml import etree
    from resiliparse.parse.html import HTMLParserException

    from headwater.data_pipeline.text import page

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
        title = page.title(tree)
        text = page.quality_text(decoded, tree, url) if config.setting == "quality" else page.fast_text(tree)
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
    return (title, text) if text.strip() else Rejection("no_main_text")


class Extractor:
    """Runs `main_text` in a child process with time and memory limits. Started at the first page."""

    def __init__(self, config: ExtractConfig) -> None:
        self._config = config
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def __call__(self, html: bytes, url: str) -> tuple[str, str] | Rejection:
        if len(html) > self._config.max_html_bytes:
            return Rejection("html_too_large", len(html), self._config.max_html_bytes)
        pipe = self._started()
        try:
            pipe.send_bytes(pickle.dumps((html, url)))
            if pipe.poll(self._config.timeout_seconds):
                return pickle.loads(pipe.recv_bytes())  # noqa: S301 - written by our own child
            reason = Rejection("extract_timeout", self._config.timeout_seconds, self._config.timeout_seconds)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            reason = Rejection("extract_failed")
        self.close()
        return reason

    def close(self) -> None:
        if self._child is not None and self._pipe is not None:
            self._child.kill()
            self._child.wait()
            self._pipe.close()
        self._child = self._pipe = None

    def _started(self) -> Connection:
        if self._pipe is None:
            self._pipe, theirs = Pipe()
            command = [sys.executable, "-m", "headwater.data_pipeline.text.extract", str(theirs.fileno())]
            self._child = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # the import path of this process
            )
            theirs.close()
            self._pipe.send_bytes(pickle.dumps(self._config))
            self._pipe.recv_bytes()  # ready: the timeout covers pages, not imports
        return self._pipe


def _serve(descriptor: int) -> None:
    """Main loop of the child: answers pages until the pipe closes."""
    pipe = Connection(descriptor)
    config = pickle.loads(pipe.recv_bytes())  # noqa: S301 - written by our own parent
    if sys.platform != "darwin":  # where the kernel refuses this limit
        resource.setrlimit(resource.RLIMIT_AS, (CHILD_MEMORY_BYTES, CHILD_MEMORY_BYTES))
    logging.disable(logging.CRITICAL)
    main_text(b"<html><body><p>Loads the libraries.</p></body></html>", "", config)
    pipe.send_bytes(b"ready")
    while True:
        try:
            html, url = pickle.loads(pipe.recv_bytes())  # noqa: S301 - written by our own parent
        except EOFError:
            return
        signal.alarm(2 * math.ceil(config.timeout_seconds))  # ends this process if the parent has died
        result = main_text(html, url, config)
        signal.alarm(0)
        pipe.send_bytes(pickle.dumps(result))


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
