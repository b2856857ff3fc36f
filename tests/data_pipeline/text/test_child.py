"""A child process that cannot start says why, and one that can is asked again."""

from __future__ import annotations

import os

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.text.child import Child


@pytest.mark.parametrize(
    ("function", "warm_up", "fault"),
    [
        ("no_such_module:answer", (), "ModuleNotFoundError: No module named 'no_such_module'"),
        ("operator:truediv", (1, 0), "ZeroDivisionError: division by zero"),
        ("os:abort", (), "it ended without a word"),
    ],
)
def test_a_child_that_cannot_load_what_it_needs_says_so(
    function: str, warm_up: tuple[int, ...], fault: str
) -> None:
    for _ in range(2):  # it is no page's fault, and stays so
        with pytest.raises(HeadwaterError, match=f"the process of {function} cannot start: {fault}") as error:
            Child(function, 5, warm_up)(1)
        assert error.value.fix
    assert Child("os:getenv", 5, ("HOME",))("HOME") == os.environ["HOME"]
