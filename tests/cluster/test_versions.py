"""The commit that an artifact and a run were made with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from headwater.cluster import versions


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_of_a_checkout_is_known_and_whether_files_were_changed_since(tmp_path: Path) -> None:
    versions.commit.cache_clear()
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert versions.commit(tmp_path) == head
    versions.commit.cache_clear()
    (tmp_path / "code.py").write_text("2\n")
    assert versions.commit(tmp_path) == f"{head}-dirty"


def test_without_a_checkout_the_submitter_names_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions.commit.cache_clear()
    assert versions.commit(tmp_path) == ""
    versions.commit.cache_clear()
    monkeypatch.setenv(versions.COMMIT_VARIABLE, "abc123")
    assert versions.commit(tmp_path) == "abc123"
