"""Mutated files of every format (benchmarks/corpus/mutations/): nothing is raised, lost or slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.corpus.mutations.__main__ import check
from benchmarks.corpus.mutations.files import MAKERS
from benchmarks.corpus.mutations.mutating import variants
from tests.data_pipeline.reading import read_all

FORMATS = list(MAKERS)


@pytest.mark.parametrize("name", FORMATS)
def test_an_undamaged_file_gives_all_its_records(name: str, tmp_path: Path) -> None:
    base = variants(name)[0]
    path = tmp_path / base.name
    path.write_bytes(base.pack(base.content) if base.pack else base.content)
    documents, unread, error = read_all(base.kind, str(path), **base.settings)
    assert (len(documents), unread, error) == (len(base.parts), [], None)
    expected = base.account(base, base.content)
    assert (expected.tokens, expected.records or len(documents)) == (base.tokens(), len(documents))


def run(numbers: range, folder: Path) -> list[str]:
    failures = []
    for number in numbers:
        found, wrong, _, _ = check(number, FORMATS, folder)
        wrong = [each for each in wrong if not each.endswith("of CPU time")]  # the benchmark tells of that
        if wrong:
            failures.append(f"{number} {found.format} ({found.what}): {wrong}")
    return failures


def test_mutated_files_give_documents_or_reasons(tmp_path: Path) -> None:
    assert run(range(10_000, 10_000 + 6 * len(FORMATS)), tmp_path) == []


@pytest.mark.soak
def test_thousands_of_mutated_files_give_documents_or_reasons(tmp_path: Path) -> None:
    assert run(range(20_000, 23_000), tmp_path) == []
