"""A model is converted for OpenVINO once, and kept with what it was made of in its key."""

from __future__ import annotations

import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Manifest
from headwater.cluster.storage.store import Store
from headwater.llm.inference import load_engine
from headwater.llm.inference.base import Engine
from headwater.llm.inference.openvino import converted, graph
from headwater.llm.inference.openvino.converted import convert
from tests.llm.models import save_model, small_model

pytest.importorskip("openvino", reason="the extra `openvino` is not installed (x86-64 Linux only)")

KEY = "0123456789abcdef"
IDS = [5, 9, 12, 30, 7, 7, 41]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry per conversion: whether it is in int8."""
    seen: list[bool] = []
    outline = graph.outline

    def counted(folder: Path, *, int8: bool = False) -> Any:
        seen.append(int8)
        return outline(folder, int8=int8)

    monkeypatch.setattr(graph, "outline", counted)
    return seen


def scores(engine: Engine) -> list[list[float]]:
    return engine.score([IDS[:1]], [IDS[1:]])


def in_store(store: Store, folder: Path) -> str:
    """The location of a model that a stage `sft` has finished."""
    artifact = store.artifact("sft", KEY)
    with artifact.create_folder("model") as target:
        shutil.copytree(folder, target, dirs_exist_ok=True)
    artifact.finish(Manifest(stage="sft", key=KEY, stage_version=1, config={}, inputs={}))
    return artifact.path("model")


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_a_store_keeps_what_was_made_of_its_model_and_no_replica_makes_it_again(
    place: str, made: list[bool], tmp_path: Path, own_cache: Path, request: pytest.FixtureRequest
) -> None:
    folder = Path(save_model(tmp_path / "own").local())
    if place == "s3":
        request.getfixturevalue("s3_server")
    store = Store(str(tmp_path / "store") if place == "disk" else "s3://converted/store")
    location = in_store(store, folder)
    together = threading.Barrier(3)

    def replica(_: int) -> str:
        together.wait()
        return convert(location, int8=False).location

    with ThreadPoolExecutor(3) as pool:
        (found,) = set(pool.map(replica, range(3)))
    assert made == [False]
    (manifest,) = (each for each in store.manifests() if each.stage == "openvino")
    assert found == store.artifact("openvino", manifest.key).location
    assert manifest.inputs == {"sft": KEY} and {"model/graph.bin", "model/config.json"} < {
        each.path for each in manifest.files
    }
    shutil.rmtree(own_cache)  # another machine
    own_cache.mkdir()
    store.artifact("sft", KEY).write_bytes("model/model.safetensors", b"")  # which reads no weights
    assert scores(load_engine(location, backend="openvino")) == scores(
        load_engine(folder, backend="openvino")
    )
    assert made == [False, False]  # the second for the folder outside the store


def test_a_folder_is_kept_by_its_content_in_the_cache(
    made: list[bool], tmp_path: Path, own_cache: Path
) -> None:
    folder = Path(save_model(tmp_path / "own").local())
    first = convert(str(folder), int8=False)
    assert own_cache in Path(first.location).parents and not (folder / "graph.xml").exists()
    shutil.copytree(folder, tmp_path / "copy")
    assert convert(str(tmp_path / "copy"), int8=False) == first and made == [False]
    assert convert(str(folder), int8=True) != first and made == [False, True]
    other = save_model(tmp_path / "other", small_model(1)).local()
    assert scores(load_engine(other, backend="openvino")) != scores(load_engine(folder, backend="openvino"))
    assert made == [False, True, False]
    (folder / "tokenizer_config.json").write_text("{}")
    assert convert(str(folder), int8=False) != first


def test_a_store_that_may_only_be_read_leaves_it_in_the_cache(
    s3_server: str, made: list[bool], tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = in_store(Store("s3://readonly/store"), Path(save_model(tmp_path / "own").local()))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "headwater-reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "headwater-reader-secret")
    for _ in range(2):
        assert own_cache in Path(convert(location, int8=False).location).parents
    assert made == [False]


def test_what_is_no_model_for_it_is_refused(tmp_path: Path) -> None:
    folder = Path(save_model(tmp_path / "own").local())
    told = (folder / "config.json").read_text()
    (folder / "config.json").write_text(told.replace('"silu"', '"gelu"'))
    with pytest.raises(HeadwaterError, match="cannot run this model: it knows the activation silu"):
        converted.converted(str(folder), int8=False)
