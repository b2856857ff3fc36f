"""Working directory of a job: the project's source, the recipe and the versions it was submitted with."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.extras import EXTRAS
from headwater.cluster.versions import recorded_versions, release

if TYPE_CHECKING:
    from packaging.markers import Marker

PACKAGES = "packages.json"
OWN = frozenset({"headwater"})
"""Packages sent as source, so that the nodes need not have them installed."""
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")


@contextlib.contextmanager
def working_directory(modules: tuple[str, ...], files: Mapping[str, str]) -> Iterator[Path]:
    """Yield a temporary folder with the source of `modules`, the given text files and `packages.json`.

    Equal content gives an identical package, which the cluster stores once.
    """
    with tempfile.TemporaryDirectory(prefix="headwater-job-") as scratch:
        folder = Path(scratch)
        for module in modules:
            shutil.copytree(_source(module), folder / module, ignore=LEFT_OUT)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        versions = {name: found for name, found in recorded_versions().items() if name not in OWN}
        (folder / PACKAGES).write_text(json.dumps(versions, sort_keys=True, indent=1))
        yield folder


def pinned_requirements(distribution: str = "headwater") -> tuple[str, ...]:
    """`name==version` of everything that is installed here because the distribution or its extras need it."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        waiting = [Requirement(line) for line in importlib.metadata.requires(distribution) or []]
    except importlib.metadata.PackageNotFoundError as error:
        raise HeadwaterError(
            f"{distribution} is not installed here, so its requirements are unknown", fix="make install"
        ) from error
    pinned: dict[str, str] = {}
    while waiting:
        requirement = waiting.pop()
        if requirement.marker and not _applies(requirement.marker, ("", *EXTRAS)):
            continue
        name = canonicalize_name(requirement.name)
        wanted = f"{name}[{','.join(sorted(requirement.extras))}]"
        if wanted in pinned:
            continue
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # required on another platform only
        pinned[wanted] = f"{name}=={release(found.version)}"
        for line in found.requires or []:
            inner = Requirement(line)
            if inner.marker is None or _applies(inner.marker, requirement.extras or {""}):
                inner.marker = None
                waiting.append(inner)
    return tuple(sorted(set(pinned.values())))


def _applies(marker: Marker, extras: Iterable[str]) -> bool:
    return any(marker.evaluate({"extra": extra}) for extra in extras)


def _source(module: str) -> Path:
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise HeadwaterError(f"Python cannot find the package {module}", fix="make install")
    return Path(next(iter(found.submodule_search_locations)))
