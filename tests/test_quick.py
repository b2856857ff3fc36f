"""What `make quick` runs for a changed file, and what `make test` says at its end."""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest

from tests.quick import MOST, PACKAGES, ROOT, nearest_tests
from tests.together import closing


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def test_a_file_brings_the_tests_of_its_name_or_a_few_that_import_it_and_a_test_itself(
    graph: grimp.ImportGraph,
) -> None:
    assert [path.name for path in nearest_tests([Path("anywhere/together.py")], graph)] == []
    assert [path.name for path in nearest_tests([Path("anywhere/quick.py")], graph)] == ["test_quick.py"]
    assert nearest_tests([Path("tests/test_quick.py"), Path("README.md")], graph) == [
        Path("tests/test_quick.py")
    ]
    assert nearest_tests([Path("tests/together.py")], graph) == [Path("tests/test_quick.py")]


def test_every_module_that_others_import_has_a_test_near_it(graph: grimp.ImportGraph) -> None:
    for package in PACKAGES[:-1]:
        for path in (ROOT / package).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if path.stem.startswith("__") or not graph.find_modules_that_directly_import(module):
                continue
            found = nearest_tests([path.relative_to(ROOT)], graph)
            assert found and all((ROOT / test).exists() for test in found), path
            assert len(found) <= MOST or all(test.stem == f"test_{path.stem}" for test in found)


def test_the_closing_line_adds_up_the_groups_as_pytest_says_it() -> None:
    group = """
============================= slowest 20 durations =============================
{0}0.10s call     tests/a/test_a.py::test_one[x y]
2.00s setup    tests/a/test_a.py::test_two
=========================== short test summary info ============================
FAILED tests/a/test_a.py::test_one
"""
    outputs = group.format(1) + "1 failed, 27 passed, 4 deselected in 138.95s (0:02:18)\n"
    outputs += group.format(3) + "======= 3 passed, 1 skipped in 2.95s =======\n"
    lines = closing(outputs, 150.0).splitlines()
    assert lines[1] == "30.10s call     tests/a/test_a.py::test_one[x y]"
    assert lines[-1] == "1 failed, 30 passed, 1 skipped in 150.00s (0:02:30)"
