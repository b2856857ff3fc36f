"""Versions of the packages that affect results most. They are recorded with every artifact."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

RECORDED = ("ray", "torch", "deepspeed", "transformers", "pyarrow", "lancedb", "headwater")

COMMIT_VARIABLE = "HEADWATER_COMMIT"
"""Environment variable with the commit of source that was sent without its checkout, as jobs are."""
SOURCE = Path(__file__).resolve().parents[1]


@functools.cache
def commit(folder: Path = SOURCE) -> str:
    """Git commit of the checkout that this source lies in, with `-dirty` if files were changed since.

    Empty without a checkout or git, unless COMMIT_VARIABLE names the commit.
    """
    if not (folder / ".git").exists():
        return os.environ.get(COMMIT_VARIABLE, "")
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()
    return ""


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
