"""Marks a function with the undocumented attributes of another library that it relies on.

`deepspeed_internals.py` and `deepspeed_starts.py` have such functions. Where the library has changed, they
raise an error that says so.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from headwater.cluster.errors import HeadwaterError

READ_IN = "0.19.8"
"""Version of DeepSpeed in which the attributes were read."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Reliance:
    """What a function relies on."""

    attributes: tuple[str, ...]
    """`engine.X`, `optimizer.X` (the engine's), `parameter.X` (of a trained matrix), or X of a module or
    class of DeepSpeed: `groups.X`, `ops.X`, `partition_parameters.X`, `Init.X`."""
    breaks: str
    """What would no longer work."""
    stages: tuple[int, ...]
    """ZeRO stages at which a 16-bit engine with AdamW has them."""


RELIANCES: dict[str, Reliance] = {}
"""Function → what it relies on."""


def relies_on(
    *attributes: str, breaks: str, stages: Sequence[int] = (0, 1, 2, 3)
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorator: notes what the function relies on, and names it if it is missing (HeadwaterError)."""

    def register(function: Callable[P, T]) -> Callable[P, T]:
        RELIANCES[function.__name__] = Reliance(attributes, breaks, tuple(stages))

        @functools.wraps(function)
        def checked(*arguments: P.args, **named: P.kwargs) -> T:
            try:
                return function(*arguments, **named)
            except AttributeError as error:
                raise HeadwaterError(
                    f"DeepSpeed {importlib.metadata.version('deepspeed')} has changed: {error}. "
                    f"Without it there are no {breaks}",
                    where=f"{function.__name__} in {function.__module__}",
                    fix=f"install deepspeed=={READ_IN}, or adapt the function",
                ) from error

        return checked

    return register
