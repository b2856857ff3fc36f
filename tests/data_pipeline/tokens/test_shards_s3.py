"""Token rows in S3: only the shards that are read are fetched."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact, Manifest
from headwater.cluster.storage.cache import cache_folder
from headwater.data_pipeline.tokens.packing import pack
from headwater.data_pipeline.tokens.shards import TokenRows, write_shard
from headwater.llm.rows.order import ShuffledOrder

SHARDS, LENGTH = 5, 16


def write_rows(artifact: Artifact) -> None:
    """A finished `tokenize` artifact of five shards."""
    random = np.random.default_rng(0)
    shards = []
    for shard in range(SHARDS):
        documents = [(f"{shard}-{n}", random.integers(4, 500, random.integers(5, 90))) for n in range(20)]
        packed = pack(documents, LENGTH, end_id=0, pad_id=3, vocab_size=500)
        with artifact.create(f"train/{shard:05d}.arrow") as stream:
            write_shard(stream, packed)
        shards.append({"name": f"{shard:05d}.arrow", "rows": len(packed.ids)})
    summary = {"tokens": 1, "bytes": 1, "documents": 100, "shards": shards}
    index = {"row_length": LENGTH, "vocab_size": 500, "pad_id": 3, "end_id": 0, "splits": {"train": summary}}
    artifact.write_json("rows.json", index)
    artifact.finish(Manifest(stage="tokenize", key="k", stage_version=1, config={}, inputs={}))


@pytest.fixture
def places(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[TokenRows, TokenRows, Artifact]:
    """The same rows on the disk and in S3, with an empty cache."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    here, there = Artifact(str(tmp_path / "rows")), Artifact(f"s3://corpus/rows/{tmp_path.name}")
    write_rows(here)
    write_rows(there)
    return TokenRows(here, "train"), TokenRows(there, "train"), there


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
