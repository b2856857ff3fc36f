"""The one error a user is meant to read: what was wrong, where, and what to do.

Everything that can go wrong through input, settings or surroundings is raised as a
`HeadwaterError`; the command line prints it without a traceback. A bug stays an ordinary
exception, and keeps its traceback.
"""

from __future__ import annotations

import errno

SURROUNDINGS = {
    errno.ENOSPC: ("the disk is full", "make room; the same command goes on from here"),
    errno.EDQUOT: ("the disk quota is used up", "make room; the same command goes on from here"),
    errno.EROFS: ("the file system is read-only", "choose another `store`"),
    errno.EACCES: ("permission denied", "check who may write there"),
    errno.EMFILE: ("too many open files", "ulimit -n 65536"),
}
"""Errors of the operating system that no line of this project can prevent: what to say, what to do."""


class HeadwaterError(Exception):
    """What was wrong, where (file, key, URL) and what to do about it."""

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" ({self.fix})" if self.fix else ""
        return f"{place}{self.what}{remedy}"

    def __reduce__(self) -> tuple[object, ...]:  # keyword arguments survive a trip between processes
        return (_rebuild, (type(self), self.what, self.where, self.fix))


def _rebuild(kind: type[HeadwaterError], what: str, where: str, fix: str) -> HeadwaterError:
    return kind(what, where=where, fix=fix)


def root_cause(error: BaseException) -> BaseException:
    """What the user has to hear about: the first HeadwaterError of a chain, else the error that began it.

    Looks through Ray's own wrappers.
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
    """The error as a person should read it; None for a bug, which keeps its traceback."""
    cause = root_cause(error)
    if isinstance(cause, HeadwaterError):
        return cause
    if isinstance(cause, OSError):
        # Arrow and Ray put the system's message into their own, and not always its number.
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
