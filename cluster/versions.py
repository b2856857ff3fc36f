"""Versions of the packages that affect results most. They are recorded with every artifact."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterable, Mapping

RECORDED = ("ray", "torch", "deepspeed", "transformers", "pyarrow", "lancedb", "headwater")


def recorded_versions() -> dict[str, str]:
    """Installed versions of the packages in `RECORDED`."""
    return installed(RECORDED)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Version of each package that is installed; others are omitted."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def release(version: str) -> str:
    """A version without its local part: 2.13.0+cpu and 2.13.0+cu130 are the same release."""
    return version.partition("+")[0]


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """A text such as `torch 2.12.0 instead of 2.13.0` for every wanted package that is missing or differs."""
    return [
        f"{package} {found.get(package, 'nothing')} instead of {version}"
        for package, version in wanted.items()
        if release(found.get(package, "nothing")) != release(version)
    ]
