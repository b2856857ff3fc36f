"""The error type for users: what is wrong, where, and how to fix it.

Problems with input, settings or the environment are raised as `HeadwaterError`; the command line
prints them without a traceback. Bugs stay ordinary exceptions and keep their traceback.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

SURROUNDINGS = {
    errno.ENOSPC: ("the disk is full", "free space; the same command resumes from here"),
    errno.EDQUOT: ("the disk quota is used up", "free space; the same command resumes from here"),
    errno.EROFS: ("the file system is read-only", "choose another `store`"),
    errno.EACCES: ("permission denied", "check the owner and mode of the folder"),
    errno.EMFILE: ("too many open files", "ulimit -n 65536"),
}
"""Operating system errors outside the project's control: errno → (problem, fix)."""


class HeadwaterError(Exception):
    """What is wrong, where (file, key or URL), and how to fix it."""

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" ({self.fix})" if self.fix else ""
        return f"{place}{self.what}{remedy}"

    def __reduce__(self) -> tuple[object, ...]:  # so that pickling keeps the keyword arguments
        return (_rebuild, (type(self), self.what, self.where, self.fix))


def _rebuild(kind: type[HeadwaterError], what: str, where: str, fix: str) -> HeadwaterError:
    return kind(what, where=where, fix=fix)


def did_you_mean(asked: str, names: Iterable[str]) -> str:
    """`did you mean NAME?` with the most similar name, in any case; empty if none is similar."""
    known = {name.lower(): name for name in names}
    near = difflib.get_close_matches(asked.lower(), known, n=1, cutoff=0.4)
    return f"did you mean {known[near[0]]}?" if near else ""


def first_line(error: BaseException) -> str:
    """The first line of its message that is not blank; empty if there is none."""
    return next(filter(None, map(str.strip, str(error).splitlines())), "")


def root_cause(error: BaseException) -> BaseException:
    """The error to show the user: the first HeadwaterError in the chain, otherwise its first exception.

    Unwraps Ray's task and actor errors.
    """
    seen: set[int] = set()
    while id(error) not in seen and not isinstance(error, HeadwaterError):
        seen.add(id(error))
        inner = getattr(error, "cause", None) or error.__cause__
        worker_failures = getattr(error, "worker_failures", None)
        if worker_failures:
            inner = next(iter(worker_failures.values()))
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


def readable(error: BaseException) -> HeadwaterError | None:
    """The error in its user-facing form, or None for a bug, which keeps its traceback."""
    cause = root_cause(error)
    if isinstance(cause, HeadwaterError):
        return cause
    if isinstance(cause, OSError):
        # Arrow and Ray quote the system's message in their own, sometimes without the errno attribute.
        known = SURROUNDINGS.get(cause.errno or 0) or next(
            (
                SURROUNDINGS[n]
                for n in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
                if f"errno {n}]" in str(cause)
            ),
            None,
        )
        if known:
            return HeadwaterError(known[0], where=str(cause.filename or ""), fix=known[1])
    return None
