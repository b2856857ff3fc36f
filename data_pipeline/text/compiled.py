"""numba compilation, cached on disk if a writable folder exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile at the first call. Later processes reuse the machine code.

    In a container without a writable cache folder (next to the source, in the home folder or at
    NUMBA_CACHE_DIR), every process compiles for itself, which takes seconds.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)  # type: ignore[return-value]
    except RuntimeError:
        return numba.njit(nogil=True)(function)  # type: ignore[return-value]
