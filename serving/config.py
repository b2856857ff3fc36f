"""The settings of the endpoint: what it serves, where it listens, how far each part scales."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from headwater.cluster.runtime.stage import StageConfig


class ReplicaRange(StageConfig):
    """How many copies of one part of the graph run, and what each reserves."""

    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    """Above `min_replicas`, Serve adds copies while requests wait."""
    cpus: float = Field(0.2, ge=0)
    """CPUs that Ray reserves for a copy. It bounds placement, not use."""
    gpus: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> ReplicaRange:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas is less than min_replicas")
        return self


def _share(cpus: float) -> ReplicaRange:
    return ReplicaRange.model_validate({"cpus": cpus})


class ServeConfig(StageConfig):
    """What a recipe says about its endpoint."""

    model_name: str = Field("headwater", min_length=1)
    """The id under which clients ask for it."""
    host: str = "127.0.0.1"
    """Another address than localhost opens the endpoint to the network: set `api_keys` then."""
    port: int = Field(8000, ge=0, le=65535)
    """0 takes a free one."""
    answer: Literal["quote", "write"] = "quote"
    """`quote`: the model chooses sentences of its sources and says them word for word, which is what a
    model too small to be trusted with facts can do. `write`: it writes, and is checked against them."""
    passages: int = Field(4, ge=1, le=20)
    """Passages that an answer may draw on."""
    per_document: int = Field(2, ge=1)
    """Of these, at most so many from one document."""
    quoted_sentences: int = Field(3, ge=1, le=10)
    max_tokens: int = Field(256, ge=1)
    """Length of an answer where the request sets none."""
    temperature: float = Field(0.0, ge=0, le=2)
    """Where the request sets none. 0 gives the same answer every time."""
    api_keys: str = ""
    """A file with one key a line. Empty: no key is asked for."""
    max_body_bytes: int = Field(1 << 20, ge=1024)
    parallel_requests: int = Field(2, ge=1)
    """Requests that one copy of the model works on at a time."""
    max_queue: int = Field(32, ge=1)
    """Requests that may wait for the model; what comes on top is told to come back later."""
    threads: int | None = Field(None, ge=1)
    """Threads of one copy of the model; None leaves it to torch."""
    cors_origins: tuple[str, ...] = ()
    """Other origins whose pages may call the endpoint. None by default."""
    api: ReplicaRange = _share(0.2)
    engine: ReplicaRange = _share(0.5)
    retrieval: ReplicaRange = _share(0.2)


class AppConfig(ServeConfig):
    """Everything that `serving.app.start` needs: the settings, and what to serve."""

    model: str
    """Location of a Hugging Face model folder with its tokenizer."""
    index: str = ""
    """Location of a finished `index` artifact. Empty: the model answers without sources."""
    store: str = ""
    """Where rankings are kept. Empty: `POST /v1/rankings` is refused."""
