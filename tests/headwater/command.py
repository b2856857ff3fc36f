"""`headwater …` in this process: starting another takes a second, which few tests are about."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from unittest import mock

from rich.console import Console

from headwater import cli


def headwater(*arguments: object, **environment: str) -> tuple[int, str]:
    """Exit code and output of the command as its entry point gives them.

    Not for `run`, `clean` and `batch`, whose sessions send the process's output elsewhere.
    """
    screen = io.StringIO()
    argv = ["headwater", *map(str, arguments)]
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.dict(os.environ, environment),
        _consoles(screen),
        contextlib.redirect_stdout(screen),
        contextlib.redirect_stderr(screen),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            return int(ended.code or 0), screen.getvalue()
    return 0, screen.getvalue()


@contextlib.contextmanager
def _consoles(screen: io.StringIO) -> Iterator[None]:
    """Every command's console is one object; here it shows on `screen`, 200 wide, and is given back."""
    console = Console(file=screen, width=200)
    with contextlib.ExitStack() as stack:
        for module in list(sys.modules.values()):
            if module.__name__.startswith("headwater.") and hasattr(module, "console"):
                stack.enter_context(mock.patch.object(module, "console", console))
        yield
