"""Settings of the endpoint: model and sources, address, limits, scaling."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from headwater.cluster.runtime.stage import NonEmpty, StageConfig
from headwater.serving.retrieval.search import MIN_RELEVANCE


class ReplicaRange(StageConfig):
    """Number of replicas of one deployment, and the resources of each."""

    min_replicas: int = Field(1, ge=1)
    """Replicas that always run."""
    max_replicas: int = Field(1, ge=1)
    """If above `min_replicas`, Serve adds replicas while requests are queued."""
    cpus: float = Field(0.2, ge=0)
    """CPUs that Ray reserves per replica. Limits placement, not usage."""
    gpus: float = Field(0.0, ge=0)
    """GPUs per replica; 0 runs on CPUs."""

    @model_validator(mode="after")
    def _ordered(self) -> ReplicaRange:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas is less than min_replicas")
        return self


def _share(cpus: float) -> ReplicaRange:
    return ReplicaRange.model_validate({"cpus": cpus})


class ServeConfig(StageConfig):
    """Settings of the endpoint in a recipe."""

    model_name: str = Field("headwater", min_length=1)
    """Model id that clients must send."""
    host: NonEmpty = "127.0.0.1"
    """Another address than localhost opens the endpoint to the network, and is refused without `api_keys`."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 picks a free one."""
    answer: Literal["quote", "write"] = "quote"
    """`quote`: answer with verbatim sentences of the sources, for models too small to state facts reliably.
    `write`: the model writes freely, and its sentences are checked against the sources."""
    passages: int = Field(4, ge=1, le=20)
    """Number of passages retrieved per answer."""
    per_document: int = Field(2, ge=1)
    """Of these, at most so many from one document."""
    min_relevance: float = Field(MIN_RELEVANCE, ge=0, le=1)
    """Least relevance of a passage to the question (`retrieval.search`). Where none has it the answer
    says that nothing was found. Higher refuses more, 0 nothing; another embedding may want another value."""
    quoted_sentences: int = Field(3, ge=1, le=10)
    """Maximum number of sentences per answer in `quote` mode."""
    max_tokens: int = Field(256, ge=1)
    """Maximum tokens per answer, unless the request sets it."""
    temperature: float = Field(0.0, ge=0, le=2)
    """Sampling temperature, unless the request sets it. 0 is deterministic."""
    api_keys: str = ""
    """Path of a file with one API key per line: `KEY`, `KEY NAME` or `KEY NAME rank`. Only the last may rank
    answers, and NAME is kept as the rater. Empty: no key is required, and everybody on this machine is the
    rater `local`."""
    rankings_per_minute: int = Field(30, ge=1)
    """Rankings that one rater may send in a minute, to each replica of `api`; further ones get status 429."""
    max_body_bytes: int = Field(1 << 20, ge=1024)
    """Maximum size of a request body in bytes; larger ones get status 413."""
    parallel_requests: int = Field(2, ge=1)
    """Requests that one model replica processes at the same time."""
    max_queue: int = Field(32, ge=1)
    """Maximum number of queued requests; further ones get status 503 with Retry-After."""
    threads: int | None = Field(None, ge=1)
    """CPU threads per model replica; None: torch's default."""
    cors_origins: tuple[NonEmpty, ...] = ()
    """Origins of other web pages that may call the endpoint (CORS). Default: none."""
    api: ReplicaRange = _share(0.2)
    engine: ReplicaRange = _share(0.5)
    retrieval: ReplicaRange = _share(0.2)


class AppConfig(ServeConfig):
    """Settings for `headwater.serving.app.start`: the recipe's, plus the artifacts to serve."""

    model: NonEmpty
    """Location of a Hugging Face model folder with its tokenizer."""
    index: str = ""
    """Location of a finished `index` artifact. Empty: the model answers without sources."""
    store: str = ""
    """Store for rankings. Empty: `POST /v1/rankings` is refused."""

    @property
    def model_key(self) -> str:
        """`STAGE/KEY` of a model in the store, else the location of its folder."""
        inside = self.store and self.model.startswith(f"{self.store}/")
        return self.model.removeprefix(f"{self.store}/").removesuffix("/model") if inside else self.model
