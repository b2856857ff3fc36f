"""The list of an endpoint's models: what it refuses, what it follows, and what a replica holds of it."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.store import Store
from headwater.llm.inference import parity
from headwater.llm.inference.base import Sampling
from headwater.serving import app
from headwater.serving.config import AppConfig, ServedModel
from headwater.serving.errors import ApiError
from headwater.serving.loaded import LoadedModels
from headwater.serving.models import ModelList, check_model
from headwater.serving.replicas import EngineReplica
from headwater.serving.room import check_memory
from tests.llm.inference.test_adapted import peft_folder
from tests.serving.conftest import config_of


def test_files_that_changed_under_a_request_do_not_answer_it(several: AppConfig, tmp_path: Path) -> None:
    folder = tmp_path / "moving"
    shutil.copytree(several.models["one"].path, folder)
    models = {"one": {"path": str(folder)}}
    several = AppConfig.model_validate(several.model_dump() | {"models": models})
    listed = ModelList(several).now["one"]
    replica = EngineReplica(several.model_copy(update={"models": {}}))
    (folder / "adapter_model.safetensors").write_bytes(
        (Path(several.models["one"].path) / "adapter_model.safetensors").read_bytes() + b" "
    )
    refused: Any = asyncio.run(replica.load(listed))
    assert (refused.status, refused.code) == (503, "model_unavailable") and "have changed" in refused.message


def test_new_files_in_the_first_models_folder_are_another_model(
    several: AppConfig, folders: dict[str, str], tmp_path: Path
) -> None:
    config = several.model_copy(update={"models": {}, "model": str(tmp_path / "own")})
    shutil.copytree(several.model, config.model)
    listing, replica = ModelList(config), EngineReplica(config)
    before = listing.first
    for file in Path(folders["other"]).glob("*.safetensors"):
        shutil.copy(file, config.model)
    given = ServedModel(path=config.model)
    after, _ = listing.would_be("tiny", given)
    listing.put("tiny", given, after)
    assert listing.first == after != before
    replica.follow()
    assert replica.loaded == [after]
    refused: Any = asyncio.run(replica.load(before))  # a request that had begun, and lost its replica
    assert (refused.status, "were replaced" in refused.message) == (503, True)


def test_a_model_in_use_is_not_dropped(several: AppConfig) -> None:
    models = LoadedModels("cpu", 1)
    listed = ModelList(several).now
    with models.use(listed["three"]) as engine:
        models.keep_only([])
        assert set(models.held) == {listed["three"], listed["other"]}  # its base as well
        assert next(iter(engine.stream([5, 6], Sampling(2))))
    models.keep_only([])
    assert models.held == []


def test_the_parity_gate_holds_for_an_adapter(
    news_config: AppConfig, folders: dict[str, str], tmp_path: Path
) -> None:
    """What Headwater exports: a merged model with its record, and the adapter alone in a folder of it."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(news_config.model)
    merged: Any = peft.PeftModel.from_pretrained(model, folders["one"]).merge_and_unload()  # type: ignore[operator]
    merged.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(news_config.model).save_pretrained(tmp_path / "model")
    parity.record_made(tmp_path / "model")
    for name in ("one", "two"):
        shutil.copytree(folders[name], tmp_path / "model" / name)
    listed = {
        name: ModelList(
            config_of(news_config, tmp_path, {name: {"path": str(tmp_path / "model" / name)}})
        ).now
        for name in ("one", "two")
    }
    models = LoadedModels("cpu", 1)
    models.preload([listed["one"]["one"]])
    with pytest.raises(HeadwaterError, match="log-probabilities differ"):  # the record is that of another
        models.preload([listed["two"]["two"]])
    with (
        pytest.raises(ApiError, match=r"cannot be loaded: the server's log"),
        models.use(listed["two"]["two"]),
    ):
        pass


def test_a_promotion_reaches_the_running_endpoint(
    news_config: AppConfig, folders: dict[str, str], tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    for key, name in (("1" * 16, "other"), ("2" * 16, "tiny")):
        source = folders.get(name, news_config.model)
        artifact = store.artifact("sft", key)
        shutil.copytree(source, artifact.path("model"))
        manifest = {"stage": "sft", "key": key, "stage_version": 1, "config": {}, "inputs": {}}
        artifact.write_bytes("manifest.json", json.dumps(manifest).encode())

    def promote(*keys: str) -> None:
        told = [{"model": f"sft/{key * 16}"} for key in keys]
        store.folder("promoted").write_json("news.json", {"promotions": told})

    promote("1")
    config = config_of(news_config, Path(store.location), {"news": {"path": "promoted/news"}})
    listing = ModelList(config)
    assert listing.now["news"].folder.endswith(f"{'1' * 16}/model")
    promote("1", "2")
    listing.look()
    assert listing.now["news"].folder.endswith(f"{'2' * 16}/model")
    store.folder("promoted").delete("news.json")
    listing.look()  # what there was stays
    assert listing.now["news"].folder.endswith(f"{'2' * 16}/model")


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ({"tiny": {"path": "one"}}, "`tiny` is the endpoint's first model"),
        ({"x": {"path": "three", "base": "nobody"}}, r"base `nobody` is no whole model.*name one of tiny"),
        ({"x": {"path": "other", "base": "tiny"}}, "has a `base` and is no adapter"),
        ({"x": {"path": "/nowhere"}}, "x is refused.*no such folder"),
        ({"x": {"path": "hf://models/a/b"}}, "the hub is not served from"),
        ({"x": {"path": "promoted/../../x"}}, "not of the form promoted/RECIPE"),
        ({"x": {"path": "wide"}}, "x is refused.*does not fit its base.*down_proj"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name_before_anything_starts(
    news_config: AppConfig, folders: dict[str, str], models: dict[str, Any], told: str, tmp_path: Path
) -> None:
    from tests.llm.models import small_model

    wide = peft_folder(tmp_path / "wide", 1, target_modules=["down_proj"])  # of a model with other shapes
    assert small_model().config.intermediate_size != 128
    places = folders | {"wide": str(wide)}
    given = {name: {**each, "path": places.get(each["path"], each["path"])} for name, each in models.items()}
    with pytest.raises(HeadwaterError, match=told):
        app.check(config_of(news_config, tmp_path / "store", given))


def test_models_that_exceed_the_memory_are_refused_with_their_sizes(
    several: AppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    served_now = ModelList(several).now.values()
    check_memory(several, served_now)
    monkeypatch.setattr("headwater.serving.room.memory_limit", lambda: 1e5)
    with pytest.raises(
        HeadwaterError, match=r"models need .* of memory.*tiny .* GB, one .* GB.*this machine has"
    ):
        app.check(several)
    for each in served_now:
        check_model(each)


def test_replicas_that_exceed_the_cpus_are_refused_before_ray_starts(
    several: AppConfig, tmp_path: Path
) -> None:
    engine = several.engine.model_copy(update={"min_replicas": 90, "max_replicas": 90, "cpus": 4.0})
    with pytest.raises(HeadwaterError, match=r"90 `engine` replicas of 4 CPUs.*`serve\.engine\.cpus`"):
        app.start(several.model_copy(update={"engine": engine}), Session(Store(str(tmp_path)), num_cpus=2))
