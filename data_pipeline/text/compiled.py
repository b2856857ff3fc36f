"""numba's compiler, with its results kept on disk where there is a place for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile at the first call, to machine code that is found again by later processes.

    A container may have no writable place (neither beside the source, nor in the home folder, nor
    NUMBA_CACHE_DIR): then every process compiles for itself, which takes seconds.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)  # type: ignore[return-value]
    except RuntimeError:
        return numba.njit(nogil=True)(function)  # type: ignore[return-value]
