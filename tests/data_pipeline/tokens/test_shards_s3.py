"""Token rows in S3: only the shards that are read are fetched."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact, FileRecord
from headwater.cluster.storage.cache import cache_folder
from headwater.data_pipeline.tokens import shard_files
from headwater.data_pipeline.tokens.shards import TokenRows
from headwater.llm.rows.order import ShuffledOrder
from headwater.llm.stages.pretrain import PretrainConfig, RowBatches, batch_order
from tests.data_pipeline.tokens.sharded import write_sharded

SHARDS = 5


@pytest.fixture
def places(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[TokenRows, TokenRows, Artifact]:
    """The same rows on the disk and in S3, with an empty cache."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    here, there = Artifact(str(tmp_path / "rows")), Artifact(f"s3://corpus/rows/{tmp_path.name}")
    return write_sharded(here, SHARDS), write_sharded(there, SHARDS), there


def copies() -> list[Path]:
    return sorted(path for path in cache_folder().iterdir() if path.suffix != ".lock")


def test_a_shard_is_fetched_when_one_of_its_rows_is_first_read(
    places: tuple[TokenRows, TokenRows, Artifact],
) -> None:
    here, there, _ = places
    assert len(there) == len(here) and not copies()
    assert (there[0] == here[0]).all() and len(copies()) == 1
    assert (there[1] == here[1]).all() and len(copies()) == 1
    last = len(here) - 1
    assert (there[last] == here[last]).all() and len(copies()) == 2
    assert there.documents(last) == here.documents(last)
    assert (there.gather(np.arange(len(here))) == here.gather(np.arange(len(here)))).all()
    assert len(copies()) == SHARDS


def test_the_batch_of_a_step_is_the_same_from_s3_and_on_any_number_of_workers(
    places: tuple[TokenRows, TokenRows, Artifact],
) -> None:
    here, there, _ = places
    plan = ShuffledOrder(len(here), 12, seed=5)
    for step in (0, 7, 1_000):
        wanted = here.gather(plan.indices(step))
        for world_size in (1, 2, 4):
            workers = [pickle.loads(pickle.dumps(there)) for _ in range(world_size)]
            parts = [rows.gather(plan.share(step, r, world_size)) for r, rows in enumerate(workers)]
            assert (np.concatenate(parts) == wanted).all()


def test_a_truncated_copy_is_noticed_and_fetched_again(
    places: tuple[TokenRows, TokenRows, Artifact],
) -> None:
    here, there, artifact = places
    there.gather(np.arange(len(there)))
    for copy in copies():
        copy.write_bytes(copy.read_bytes()[:100])
    again = TokenRows(artifact, "train")
    assert (again.gather(np.arange(len(again))) == here.gather(np.arange(len(here)))).all()


def test_rows_of_an_unfinished_artifact_are_read(places: tuple[TokenRows, TokenRows, Artifact]) -> None:
    here, _, artifact = places
    artifact.delete("manifest.json")
    assert (TokenRows(artifact, "train")[3] == here[3]).all()


def test_a_shard_that_was_damaged_in_the_store_is_named(
    places: tuple[TokenRows, TokenRows, Artifact],
) -> None:
    _, there, artifact = places
    content = bytearray(artifact.read_bytes("train/00002.arrow"))
    content[len(content) // 2] ^= 1
    artifact.write_bytes("train/00002.arrow", bytes(content))
    with pytest.raises(HeadwaterError, match=r"00002\.arrow"):
        there.gather(np.arange(len(there)))


def test_shards_are_fetched_before_they_are_read_and_dropped_after(
    places: tuple[TokenRows, TokenRows, Artifact],
) -> None:
    here, there, _ = places
    config = PretrainConfig(batch=1, workers=1, window_shards=1)
    source = RowBatches(there, batch_order(there, config), cache_bytes=1 << 30)
    source.rank, source.world_size = 0, 1
    for step in range(2 * len(here)):
        assert (source.batch(step)["ids"] == here.gather(source.plan.indices(step))).all()
        ahead = there.files.fetching
        assert ahead is not None
        ahead.wait()
        expected = source.plan.shards(step)
        assert expected is not None
        assert len(copies()) == len(expected[0]) + len(expected[1]) <= 2, "a window, and the next"


def test_no_more_is_fetched_ahead_than_the_cache_may_hold(
    places: tuple[TokenRows, TokenRows, Artifact],
) -> None:
    _, there, artifact = places
    sizes = [record.size for record in artifact.finished().files if record.path.endswith(".arrow")]
    there.files.expect([0, 1], [2, 3], sum(sizes[:3]))
    assert there.files.fetching is not None
    there.files.fetching.wait()
    assert len(copies()) == 3
    there.files.expect([4], [], 0)  # the copies of 0 to 2 are behind
    there.files.fetching.wait()
    assert not copies()


def test_a_copy_that_another_process_dropped_is_fetched_again(
    places: tuple[TokenRows, TokenRows, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, _ = places
    fetch, lost = Artifact.local_file, [True]

    def local_file(self: Artifact, name: str, record: FileRecord | None = None) -> Path:
        path = fetch(self, name, record)
        if lost:
            lost.clear()
            path.unlink()
        return path

    monkeypatch.setattr(Artifact, "local_file", local_file)
    assert (there[0] == here[0]).all() and not lost


def test_a_shard_that_cannot_be_fetched_ahead_fails_where_it_is_read(
    places: tuple[TokenRows, TokenRows, Artifact], caplog: pytest.LogCaptureFixture
) -> None:
    here, there, artifact = places
    artifact.delete("train/00000.arrow")
    there.files.expect([0, 1], [], 1 << 30)
    assert there.files.fetching is not None
    there.files.fetching.wait()
    assert "00000.arrow was not fetched ahead" in caplog.text
    assert (there[len(here) - 1] == here[len(here) - 1]).all()
    with pytest.raises(HeadwaterError, match=r"00000\.arrow"):
        there[0]


def test_the_least_recently_used_shard_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "MOST_OPEN", 3)
    files = write_sharded(Artifact(str(tmp_path)), SHARDS).files
    for shard in (0, 1, 2, 0, 3):
        files.open(shard)
    assert files.opened == 4
    for shard in (0, 2, 3):
        files.open(shard)
    assert files.opened == 4
    files.open(1)
    assert files.opened == 5
