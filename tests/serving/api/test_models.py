"""Several models behind one endpoint: `model` chooses, adapters are added, swapped and removed under load."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.exceptions import ActorDiedError

from headwater.cluster.storage.artifact import Manifest
from headwater.cluster.storage.store import Store
from headwater.llm.examples import rankings
from headwater.llm.stages.models import FOLDER
from headwater.serving.config import AppConfig
from headwater.serving.models import ModelList
from headwater.serving.replicas import EngineReplica
from tests.serving.conftest import Endpoint, config_of
from tests.serving.in_process import Handle, MortalHandle, ingress_of, served

PROMPT = "The city council voted on Tuesday to rebuild"


def said(url: str, model: str, seed: int = 3, tokens: int = 24, **headers: str) -> str:
    asked = {"model": model, "prompt": PROMPT, "max_tokens": tokens, "seed": seed, "temperature": 1}
    answer = httpx.post(f"{url}/v1/completions", json=asked, timeout=120, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    return str(answer.json()["choices"][0]["text"])


def streamed(url: str, model: str, seed: int, tokens: int, begun: threading.Event | None = None) -> str:
    """The text of a stream that ended in good order."""
    asked = {"model": model, "prompt": PROMPT, "max_tokens": tokens, "seed": seed, "temperature": 1}
    text, done = "", False
    body = asked | {"stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=300) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk, chunk
                assert chunk["model"] == model
                text += "".join(choice["text"] for choice in chunk["choices"])
                if begun is not None and text:
                    begun.set()
    assert done, "the stream was cut"
    return text


def alone(news_config: AppConfig, folder: str, base: str, tmp_path: Path) -> str:
    """What an endpoint says whose first model is the adapter, merged into its base by peft."""
    import peft
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    merged: Any = peft.PeftModel.from_pretrained(model, folder).merge_and_unload()  # type: ignore[operator]
    own = tmp_path / "merged"
    shutil.copytree(base, own)
    (own / "model.safetensors").unlink()
    merged.save_pretrained(own)
    with served(ingress_of(config_of(news_config, tmp_path / "s", {}, model=str(own)))) as url:
        return said(url, "tiny")


def test_the_model_of_a_request_answers_it_everywhere(
    several: AppConfig, news_config: AppConfig, folders: dict[str, str], tmp_path: Path
) -> None:
    with served(ingress_of(several)) as url:
        names = ["tiny", "one", "other", "three"]
        texts = {name: said(url, name) for name in names}
        assert len(set(texts.values())) == 4
        with concurrent.futures.ThreadPoolExecutor(8) as pool:  # the same beside all the others
            together = list(pool.map(lambda name: said(url, name), names * 2))
        assert together == [texts[name] for name in names * 2]
        listed = httpx.get(f"{url}/v1/models").json()["data"]
        assert [(each["id"], each["parent"]) for each in listed] == [
            ("tiny", None),
            ("one", "tiny"),
            ("other", None),
            ("three", "other"),
        ]
        assert httpx.get(f"{url}/v1/models/three").json()["id"] == "three"
        message = [{"role": "user", "content": "What is new?"}]
        routes: list[tuple[str, dict[str, Any]]] = [
            ("/v1/chat/completions", {"messages": message, "max_tokens": 8}),
            ("/v1/completions", {"prompt": "a"}),
            ("/v1/responses", {"input": "a", "max_output_tokens": 8}),
            ("/v1/embeddings", {"input": "a"}),
            ("/tokenize", {"prompt": "a"}),
            ("/detokenize", {"tokens": [5]}),
        ]
        for path, body in routes:
            right = httpx.post(f"{url}{path}", json=body | {"model": "three"}, timeout=60)
            assert right.status_code == 200 and right.json().get("model", "three") == "three", (
                path,
                right.text,
            )
            wrong = httpx.post(f"{url}{path}", json=body | {"model": "no"}, timeout=60)
            error = wrong.json()["error"]
            assert (wrong.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
            assert all(f"`{name}`" in error["message"] for name in names), error
        metrics = httpx.get(f"{url}/metrics").text
        assert 'headwater_tokens_total{kind="completion",model="three"}' in metrics
        assert 'headwater_model_answers_total{model="one"}' in metrics
        assert httpx.get(f"{url}/console/api/about").json()["models"] == names
    assert texts["one"] == alone(news_config, folders["one"], news_config.model, tmp_path)


@pytest.mark.parametrize("lives", [[1, None], [4, 5, None]])
def test_an_adapters_answer_survives_its_replica(
    several: AppConfig, lives: list[int | None], tmp_path: Path
) -> None:
    replicas = [EngineReplica(several) for _ in range(2)]
    with served(ingress_of(several, Handle(replicas[0]))) as url:
        wanted = {name: streamed(url, name, 5, 12) for name in ("tiny", "one", "three")}
    assert len(set(wanted.values())) == 3
    for name, text in wanted.items():
        handle = MortalHandle(replicas, [None])
        with served(ingress_of(several, handle)) as url:
            handle.lives, handle.calls = lives, 0  # of the request, not of what warms the parts
            assert streamed(url, name, 5, 12) == text, name
            assert handle.calls == len(lives)


def test_models_are_added_swapped_and_removed_by_admins_while_it_runs(
    several: AppConfig, folders: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("plain anna\nboss bob admin\n")
    several = several.model_copy(update={"api_keys": str(tmp_path / "keys")})
    replica = EngineReplica(several)
    boss = {"authorization": "Bearer boss"}
    with (
        served(ingress_of(several, Handle(replica))) as url,
        served(ingress_of(several, Handle(replica))) as second,
    ):

        def change(method: str, path: str, body: Any = None, headers: Any = boss) -> httpx.Response:
            return httpx.request(method, f"{url}/v1/models{path}", json=body, headers=headers, timeout=120)

        anna = {"authorization": "Bearer plain"}
        new = {"id": "new", "path": folders["two"]}
        assert change("POST", "", new, anna).json()["error"]["code"] == "not_allowed"
        assert change("DELETE", "/one", headers=anna).status_code == 403
        assert change("POST", "", new).status_code == 201
        two = said(url, "new", **boss)
        assert two not in (said(url, "one", **boss), said(url, "tiny", **boss))
        deadline = time.monotonic() + 60
        while "new" not in httpx.get(f"{second}/v1/models", headers=boss).text:  # another replica of `api`
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert said(second, "new", **boss) == two
        assert change("POST", "", {"id": "one", "path": folders["two"]}).status_code == 201
        assert said(url, "one", **boss) == two
        wrong = change("POST", "", {"id": "bad", "path": folders["three"], "base": "one"})
        assert wrong.status_code == 400 and "`one` is no whole model" in wrong.text
        assert change("POST", "", {"id": "bad", "path": "/nowhere"}).status_code == 400
        wrong = change("POST", "", {"id": "tiny", "path": folders["two"]})
        assert wrong.status_code == 400 and "a whole one, and this is an adapter" in wrong.text
        assert "three" in change("DELETE", "/other").json()["error"]["message"]
        assert change("DELETE", "/tiny").status_code == 400
        assert change("DELETE", "/nobody").json()["error"]["code"] == "model_not_found"
        assert change("DELETE", "/three").json() == {"id": "three", "object": "model", "deleted": True}
        assert change("DELETE", "/other").status_code == 200
        assert httpx.get(f"{url}/v1/models/three", headers=boss).status_code == 404
        before = {each.name for each in replica.loaded}
        replica.follow()  # as Serve's health check does
        assert before > {each.name for each in replica.loaded} == {"tiny", "one", "new"}
        assert said(url, "new", **boss) == two
    assert set(ModelList(several).now) == {"tiny", "one", "new"}  # a new replica begins with it
    ModelList(several).forget_changes()
    assert set(ModelList(several).now) == {"tiny", "one", "other", "three"}


class _Swapping(MortalHandle):
    """The first model is swapped while the replica of a request dies."""

    swap: Callable[[], None]

    async def _mortal(self, answered: Any, life: int | None) -> AsyncIterator[list[Any]]:
        try:
            async for each in super()._mortal(answered, life):
                yield each
        except ActorDiedError:
            await asyncio.to_thread(self.swap)
            raise


def test_the_first_model_is_swapped_and_what_has_begun_ends_with_the_old_one(
    several: AppConfig, folders: dict[str, str]
) -> None:
    """`tiny` becomes `other`; its adapter `one` has the new base, and the old model leaves the memory."""
    replicas = [EngineReplica(several) for _ in range(2)]
    with served(ingress_of(several, Handle(replicas[0]))) as url:
        old, new, adapted = streamed(url, "tiny", 5, 12), streamed(url, "other", 5, 12), said(url, "one")
    assert old != new
    handle = _Swapping(replicas, [None])
    with served(ingress_of(several, handle)) as url:

        def put(path: str) -> httpx.Response:
            return httpx.post(f"{url}/v1/models", json={"id": "tiny", "path": path}, timeout=60)

        def swap() -> None:
            assert put(folders["other"]).status_code == 201
            for replica in replicas:
                replica.follow()  # as Serve's health check does

        handle.swap, handle.lives, handle.calls = swap, [4, None], 0
        assert streamed(url, "tiny", 5, 12) == old
        assert streamed(url, "tiny", 5, 12) == new
        assert said(url, "one") != adapted
        listed = httpx.get(f"{url}/v1/models").json()["data"]
        assert [each["id"] for each in listed] == ["tiny", "one", "other", "three"]
        assert httpx.get(f"{url}/console/api/about").json()["model_key"] == folders["other"]
        assert "first model: put another" in httpx.delete(f"{url}/v1/models/tiny").text
    replicas[0].follow()
    folders_held = {each.folder for each in replicas[0].loaded}
    assert several.model not in folders_held and folders["other"] in folders_held
    assert ModelList(several).first.folder == folders["other"]  # a new replica begins with it
    ModelList(several).forget_changes()
    assert ModelList(several).first.folder == several.model


def test_a_ranking_names_the_model_that_wrote_each_answer_and_not_the_one_that_serves_by_then(
    news_config: AppConfig, folders: dict[str, str], tmp_path: Path
) -> None:
    """`tiny`, a folder, is replaced by a model of the store between two answers."""
    config, store = config_of(news_config, tmp_path, {}), Store(str(tmp_path))
    stored = store.artifact("sft", "5" * 16)
    shutil.copytree(folders["other"], stored.path(FOLDER))
    stored.finish(Manifest(stage="sft", key=stored.key, stage_version=1, config={}, inputs={}))
    ask = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4}
    answers: list[dict[str, str]] = []
    with served(ingress_of(config)) as url:
        for streamed in (False, True):
            body = ask | {"stream": streamed}
            told = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).text
            first = json.loads(told.partition("\n")[0].removeprefix("data: "))
            answers.append({"text": str(streamed), "system_fingerprint": first["system_fingerprint"]})
            put = {"id": "tiny", "path": f"sft/{stored.key}"}
            assert httpx.post(f"{url}/v1/models", json=put, timeout=60).status_code == 201

        def rank(*shown: dict[str, str]) -> httpx.Response:
            asked = {"messages": ask["messages"], "answers": shown, "ranks": [1, 2]}
            return httpx.post(f"{url}/v1/rankings", json=asked, timeout=60)

        assert rank(*answers).status_code == 201
        assert rank(answers[0], {"text": "b"}).status_code == 201
        assert rank(answers[1], {"text": "b"}).status_code == 201
        for forged in (f"sft/{'6' * 16}", "fp_0123456789abcdef", "../sft", config.model, "promoted/x"):
            refused = rank(answers[0], {"text": "b", "system_fingerprint": forged})
            assert (refused.status_code, refused.json()["error"]["param"]) == (
                400,
                "answers.1.system_fingerprint",
            )
    first, second = config.model, f"sft/{stored.key}"
    assert config.model not in answers[0]["system_fingerprint"]  # a place on the server's disk
    kept = [each.ranking for each in rankings.read(store)]
    assert [[answer.model_key for answer in each.answers] for each in kept] == [
        [first, second],
        [first, None],
        [second, None],
    ]
    assert [each.model_key for each in kept] == ["", "", second]


def test_without_a_store_the_list_stays(
    news_config: AppConfig, folders: dict[str, str], tmp_path: Path
) -> None:
    config = config_of(news_config, tmp_path, {"one": {"path": folders["one"]}})
    with served(ingress_of(config.model_copy(update={"store": ""}))) as url:
        answer = httpx.post(f"{url}/v1/models", json={"id": "two", "path": folders["two"]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "store_disabled")
        assert httpx.delete(f"{url}/v1/models/one").status_code == 404
        assert said(url, "one")


@pytest.mark.soak  # `make test` has it without Serve, above
@pytest.mark.parametrize(("name", "one", "two"), [("swapped", "one", "two"), ("tiny", "first", "other")])
def test_streams_run_while_a_model_is_swapped_and_none_is_lost_or_mixed(
    endpoint: Endpoint, folders: dict[str, str], name: str, one: str, two: str
) -> None:
    """An adapter, and the endpoint's first model."""
    tokens, seeds, url = 300, range(4), endpoint.url
    places = folders | {"first": endpoint.config.model}

    def add(name: str, folder: str) -> None:
        body = {"id": name, "path": places[folder]}
        assert httpx.post(f"{url}/v1/models", json=body, timeout=120).status_code == 201

    add("old", one)
    add("new", two)
    whole = {each: [streamed(url, each, seed, tokens) for seed in seeds] for each in ("old", "new")}
    assert not set(whole["old"]) & set(whole["new"])
    add(name, one)
    for folder, before, after in ((two, "old", "new"), (one, "new", "old")):
        begun, swapped = [threading.Event() for _ in seeds], threading.Event()

        def streams(seed: int, begun: list[threading.Event], swapped: threading.Event) -> list[str]:
            found = [streamed(url, name, seed, tokens, begun[seed])]
            while not swapped.is_set():
                found.append(streamed(url, name, seed, tokens))
            return found

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            running = [pool.submit(streams, seed, begun, swapped) for seed in seeds]
            try:
                assert all(event.wait(120) for event in begun)
                add(name, folder)
            finally:
                swapped.set()
            for seed, found in enumerate(stream.result() for stream in running):
                assert set(found) <= {whole[before][seed], whole[after][seed]}
                assert found[0] == whole[before][seed] and found == sorted(
                    found, key=whole[after][seed].__eq__
                )
            later = [pool.submit(streamed, url, name, seed, tokens) for seed in seeds]
            assert [stream.result() for stream in later] == whole[after]
    if name == "swapped":
        assert httpx.delete(f"{url}/v1/models/swapped").status_code == 200
        gone = httpx.post(f"{url}/v1/completions", json={"model": "swapped", "prompt": "a"})
        assert gone.status_code == 404
    assert streamed(url, "old", 0, tokens) == whole["old"][0]
    assert all(httpx.delete(f"{url}/v1/models/{each}").is_success for each in whole)
