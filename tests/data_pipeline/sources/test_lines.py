"""Lines of a stream: those of the file, with their numbers and offsets, up to a limit and to a damage."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.data_pipeline.sources.items import UnreadableFile
from headwater.data_pipeline.sources.lines import Line, bounded_lines, split_lines


@given(st.binary(max_size=400).map(lambda data: data.replace(b"\x01", b"\n")), st.integers(1, 50))
def test_lines_are_those_of_the_file_whatever_the_size_of_the_chunks(data: bytes, chunk: int) -> None:
    expected, offset = [], 7
    for number, text in enumerate(io.BytesIO(data).readlines(), start=3):
        content = text if len(text) <= 20 else None
        expected.append(Line(number, offset, offset + len(text), content))
        offset += len(text)
    found = []
    for line in split_lines(io.BytesIO(data), 20, 3, 7, chunk_bytes=chunk):
        more = len(line.content) - 1 if line.content and not line.content.strip(b"\n") else 0
        for at in range(more):  # empty lines that came as one
            found.append(Line(line.number - more + at, line.offset + at, line.offset + at + 1, b"\n"))
        found.append(line._replace(offset=line.offset + more, content=line.content and line.content[more:]))
    assert found == expected


def test_a_million_empty_lines_are_few_pieces() -> None:
    lines = list(split_lines(io.BytesIO(b"a\n" + b"\n" * 1_000_000 + b"b\n"), 300_000))
    assert len(lines) < 10
    assert (lines[-1].number, lines[-1].content) == (1_000_002, b"b\n")
    assert all(line.content is not None for line in lines)


def test_lines_before_a_damage_are_read_and_the_damage_is_placed() -> None:
    class Damaged(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if data := super().read(size):
                return data
            raise OSError("bad block")

    found = []
    with pytest.raises(UnreadableFile) as caught:
        for line in bounded_lines(Damaged(b"one\ntwo\nthr"), 100):
            found.append(line.content)
    assert found == [b"one\n", b"two\n"]
    assert (caught.value.reason, caught.value.position) == ("truncated", "line 3, byte 8")
