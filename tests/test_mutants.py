"""The list of mutants fits the source and the tests; `make mutants` says whether they are killed."""

from __future__ import annotations

import pytest

from tests.mutants import MUTANTS
from tests.mutants.mutant import ROOT, Mutant, nearest, place_of


def test_no_two_mutants_have_one_name_and_each_changes_something() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40
    assert all(mutant.old != mutant.new and mutant.tests for mutant in MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_has_one_place_in_the_source_and_tests_that_are_there(mutant: Mutant) -> None:
    place_of(mutant.old, ROOT)
    for named in mutant.tests:
        file, *function = nearest(named, ROOT).split("::")
        assert not function or f"def {function[0].partition('[')[0]}(" in (ROOT / file).read_text()
