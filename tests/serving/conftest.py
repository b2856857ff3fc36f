"""A small news corpus, its index, a tiny untrained model, and one running endpoint for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.documents import Document, document_id, to_table
from headwater.data_pipeline.tokens.tokenizer import save_tokenizer, train, wrap
from headwater.serving import app
from headwater.serving.config import AppConfig
from headwater.serving.retrieval.index import Index, IndexConfig
from tests.serving.in_process import ingress_of, served
from tests.serving.web.conftest import config as web_config

ARTICLES = {
    "Council votes to rebuild the old stone bridge": (
        "The city council voted on Tuesday to rebuild the old stone bridge over the Avon. "
        "Work will begin in March and cost about 12 million pounds, Mayor Anna Reed said. "
        "Drivers will have to take a detour through Mill Lane until the end of next year."
    ),
    "Farmers fear for the harvest after weeks of rain": (
        "Farmers in the eastern counties say that their wheat fields have been under water for three weeks. "
        "The farmers' union expects a third of the harvest to be lost. "
        "Ministers promised help for the worst affected families."
    ),
    "Telescope finds a rocky planet forty light years away": (
        "Astronomers have found a rocky planet that circles a small red star forty light years from Earth. "
        "The telescope in Chile watched the star grow dimmer every eleven days. "
        "Whether the planet has an atmosphere is not known yet, said Dr. Ilse Brandt."
    ),
    "Striking nurses return to work after a pay deal": (
        "Nurses at four hospitals went back to work on Friday after they had accepted a pay deal. "
        "Their wages rise by six percent over two years. "
        "The hospitals said that delayed operations would be done before the summer."
    ),
    "Chess champion, 14, beats a grandmaster in Oslo": (
        "A schoolgirl of fourteen has beaten a grandmaster at the chess tournament in Oslo. "
        "She sacrificed her queen in the twentieth move and won eight moves later. "
        "Her coach said that she had prepared the opening for months."
    ),
    "Bakery <b>burns</b> down in the night": (
        "A fire destroyed a bakery in the harbour district in the night to Sunday. "
        "Nobody was hurt, the fire brigade said. "
        "The police are looking for the cause, which may have been a broken oven. <script>alert(1)</script>"
    ),
}
BRIDGE = next(iter(ARTICLES))


def documents() -> list[Document]:
    made = []
    for number, (title, text) in enumerate(ARTICLES.items()):
        url = f"https://news.example/story/{number}"
        made.append(Document(document_id(url, text), url, title, text))
    return made


def clean_artifact(store: Store, made: list[Document], files: int = 2) -> Artifact:
    """A corpus as the stage `clean` leaves it, in so many files."""
    clean = store.artifact("clean", "0" * 16)
    for part in range(files):
        with clean.create(f"kept/{part:05d}.parquet") as stream:
            pq.write_table(to_table(made[part::files]), stream)
    return clean


def tiny_model(folder: Path, context: int = 512) -> Path:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = wrap(train([f"{title}\n{text}" for title, text in ARTICLES.items()] * 5, 600, 2))
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=context,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


@dataclass(frozen=True)
class Endpoint:
    url: str
    store: Store
    config: AppConfig


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def news_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("news-store")))


@pytest.fixture(scope="session")
def news_index(news_store: Store) -> Artifact:
    clean = clean_artifact(news_store, documents())
    index, _ = execute(
        Index(IndexConfig(passage_words=40)), {"clean": clean}, Session(news_store, max_workers=0)
    )
    return index


@pytest.fixture(scope="session")
def news_config(news_index: Artifact, news_store: Store, model_folder: Path) -> AppConfig:
    return AppConfig(
        model=str(model_folder),
        model_name="tiny",
        index=news_index.location,
        store=news_store.location,
        port=0,
        max_body_bytes=64 * 1024,
        parallel_requests=4,
        max_queue=2,
        threads=1,
    )


@pytest.fixture(scope="session")
def endpoint(ray_cluster: None, news_config: AppConfig, news_store: Store) -> Iterator[Endpoint]:
    """The endpoint on Serve: for what lies between its parts."""
    config = news_config.model_copy(update={"web": web_config()})
    url = app.start(config, Session(news_store))
    yield Endpoint(url, news_store, config)
    app.stop()


@pytest.fixture(scope="session")
def local(news_config: AppConfig, news_store: Store) -> Iterator[Endpoint]:
    """The same parts in this process, without Serve: for what the routes take and give."""
    config = news_config.model_copy(update={"parallel_requests": 16, "max_queue": 64})
    with served(ingress_of(config)) as url:
        yield Endpoint(url, news_store, config)


@pytest.fixture(scope="session")
def folders(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two adapters of the first model, and another whole model with an adapter of its own."""
    from transformers import AutoModelForCausalLM

    from tests.llm.inference.test_adapted import peft_folder

    root = tmp_path_factory.mktemp("models")
    model: Any = AutoModelForCausalLM.from_pretrained(str(model_folder))
    found = {name: peft_folder(root / name, seed, model) for seed, name in enumerate(("one", "two"), 1)}
    found["other"] = tiny_model(root / "other")
    for path in found["other"].glob("*.safetensors"):
        _reversed_weights(path)
    other: Any = AutoModelForCausalLM.from_pretrained(str(found["other"]))
    found["three"] = peft_folder(root / "three", 3, other)
    return {name: str(path) for name, path in found.items()}


def _reversed_weights(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({n: t.flip(0).contiguous() for n, t in load_file(path).items()}, path, {"format": "pt"})


def config_of(news_config: AppConfig, store: Path, models: dict[str, Any], **more: Any) -> AppConfig:
    settings = news_config.model_dump() | {
        "store": str(store),
        "index": "",
        "max_queue": 64,
        "models": models,
    }
    return AppConfig.model_validate(settings | more)


@pytest.fixture
def several(news_config: AppConfig, folders: dict[str, str], tmp_path: Path) -> AppConfig:
    """Four models: `tiny`, its adapter `one`, `other`, and its adapter `three`."""
    models = {
        "one": {"path": folders["one"]},
        "other": {"path": folders["other"]},
        "three": {"path": folders["three"], "base": "other"},
    }
    return config_of(news_config, tmp_path / "store", models)
