"""When a checkpoint counts: only with every byte that its ranks wrote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.training.state import elements
from tests.llm.jobs import run_job
from tests.llm.random_rows import Rows
from tests.llm.ranks import on_ranks
from tests.llm.training.test_interruptions import checkpoints


def cut_short(folder: Path) -> None:
    """On one rank: a file of the checkpoint has lost its last byte before the note of its size is written."""
    write = elements.write

    def loses_a_byte(share: Any, into: Artifact, own: dict[str, Any]) -> int:
        written = write(share, into, own)
        file = Path(into.path("rank-00000-00000.safetensors"))
        os.truncate(file, file.stat().st_size - 1)
        return written

    elements.write = loses_a_byte
    with pytest.raises(HeadwaterError, match="bytes"):
        run_job(folder / "cut", Rows(8), folder / "screen")


def test_a_checkpoint_with_fewer_bytes_than_a_rank_wrote_does_not_count(tmp_path: Path) -> None:
    on_ranks(1, cut_short, tmp_path)
    assert list((tmp_path / "cut").rglob("written-00000.json"))
    assert checkpoints(tmp_path / "cut") == []
