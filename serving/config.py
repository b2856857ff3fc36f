"""Settings of the endpoint: model and sources, address, limits, scaling."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.stage import NonEmpty, StageConfig
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.inference.backends import Choice, Quantize, Wanted, choose
from headwater.serving.retrieval.embed import WORDLLAMA
from headwater.serving.retrieval.index import IndexConfig
from headwater.serving.retrieval.search import DESCRIPTION, MIN_RELEVANCE
from headwater.serving.web.config import WebConfig

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$")
"""Of a further model."""


class ReplicaRange(StageConfig):
    """Number of replicas of one deployment, and the resources of each."""

    min_replicas: int = Field(1, ge=1)
    """Replicas that always run. With one more than the load needs, no answer of a lost replica waits for a
    new one to start."""
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


class ServedModel(StageConfig):
    """A further model of the endpoint."""

    path: NonEmpty
    """A Hugging Face folder, or the folder of a LoRA adapter as peft saves it; in a store `STAGE/KEY`,
    `STAGE/KEY/adapter` (what its LoRA training has learnt, without the base) or `promoted/RECIPE`, which
    follows that recipe's promotions."""
    base: str = ""
    """Of an adapter: name of the served model that it was trained on. Default: the endpoint's first model."""


def _share(cpus: float) -> ReplicaRange:
    return ReplicaRange.model_validate({"cpus": cpus})


class ServeConfig(StageConfig):
    """Settings of the endpoint in a recipe."""

    model_name: str = Field("headwater", min_length=1)
    """Model id that clients must send."""
    models: dict[Annotated[str, Field(pattern=NAME.pattern)], ServedModel] = {}
    """Further models, by the names that clients send. Adapters share the weights and the running batch of
    their base; all models are in each replica of `engine`."""
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
    """Path of a file with one API key per line: `KEY`, `KEY NAME` or `KEY NAME ROLE …`. It is read again when
    it changes. The role `rank` may rank answers, and NAME is kept as the rater; `admin` may look at the store
    in the console, and manage keys. Empty: no key is required, everybody on this machine may do all, and the
    rater is `local` unless the request names one."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Requests that one key may send in a minute, to each replica of `api`; further ones get status 429.
    Default: no limit. A key's line in `api_keys` may have other limits: `KEY NAME tokens_per_day=50000`."""
    tokens_per_minute: int | None = Field(None, ge=1)
    """Tokens of prompts and answers that one key may use in a minute, on each replica of `api`. A request
    that begins below the limit is answered to its end. Default: no limit."""
    tokens_per_day: int | None = Field(None, ge=1)
    """The same for a day of UTC, on all replicas together, over restarts where there is a store. Default: no
    limit."""
    rankings_per_minute: int = Field(30, ge=1)
    """Rankings that one rater may send in a minute, to each replica of `api`; further ones get status 429."""
    max_body_bytes: int = Field(1 << 20, ge=1024)
    """Maximum size of a request body in bytes; larger ones get status 413."""
    parallel_requests: int = Field(16, ge=1)
    """Requests that one model replica answers at the same time; their tokens are generated in one batch."""
    max_queue: int = Field(32, ge=1)
    """Requests that may wait for the model; further ones get status 429 with Retry-After at once."""
    resume_seconds: float = Field(60.0, ge=0)
    """Longest wait of a request for another replica where its own was lost; the answer goes on where it
    stopped. After that, and with 0 at once, the request gets status 503, and a stream an error event."""
    threads: int | None = Field(None, ge=1)
    """CPU threads per model replica; None: torch's default."""
    backend: Wanted = "torch"
    """What computes the model on CPUs. `torch` is always there and runs every model. `openvino` (the extra
    `openvino`; Llama, Mistral, Qwen2 and Qwen3) makes several times its tokens per second. `auto` takes
    openvino if it is installed and covers the model; the screen and `/v1/models` say what is served. All
    replicas have the same one. The two round differently: a seed's tokens may differ between them."""
    quantize: Quantize = "none"
    """`int8`: weight matrices in 8 bits, one scale per row, of the backend openvino. Answers differ slightly
    from the model's own."""
    cors_origins: tuple[NonEmpty, ...] = ()
    """Origins of other web pages that may call the endpoint (CORS). Default: none."""
    api: ReplicaRange = _share(0.2)
    engine: ReplicaRange = _share(0.5)
    retrieval: ReplicaRange = _share(0.2)
    web: WebConfig | None = None
    """Pages of the live web as sources. Default: the index alone."""
    web_reader: ReplicaRange = _share(0.1)
    """What fetches these pages; not started without `web`."""
    traces: str = Field("", pattern=r"^(https?://\S+)?$")
    """URL of an OpenTelemetry collector (OTLP over HTTP, `http://127.0.0.1:4318`): it gets the spans of every
    request, without a word of its text. Empty: none are made."""

    def parts(self, *, index: bool) -> dict[str, ReplicaRange]:
        """The deployments that are started, by the names of their settings."""
        every = {
            "api": self.api,
            "engine": self.engine,
            "retrieval": self.retrieval,
            "web_reader": self.web_reader,
        }
        return {
            name: part
            for name, part in every.items()
            if (index or name != "retrieval") and (self.web or name != "web_reader")
        }


class AppConfig(ServeConfig):
    """Settings for `headwater.serving.app.start`: the recipe's, plus the artifacts to serve."""

    model: NonEmpty
    """Location of a Hugging Face model folder with its tokenizer."""
    index: str = ""
    """Location of a finished `index` artifact. Empty: the model answers without sources."""
    store: str = ""
    """Store for rankings. Empty: `POST /v1/rankings` is refused."""

    @property
    def max_requests(self) -> int:
        """Requests that are answered or wait, on all model replicas together."""
        return self.parallel_requests * self.engine.max_replicas + self.max_queue

    @property
    def embedding(self) -> str:
        """The index's, or the default."""
        return str(self._described.get("embedding", WORDLLAMA))

    def choice(self, model: str = "") -> Choice:
        """What computes the models. Raises HeadwaterError if the settings cannot be had for them. `model`: a
        folder to be asked about in the place of the first one's."""
        if self.backend == "torch" and self.quantize == "none":
            return Choice("torch", "none", "as set")
        if self.models and self.backend == "auto" and self.quantize == "none":
            return Choice("torch", "none", "it has several models")
        if self.models:
            raise HeadwaterError(
                "the backend openvino serves one model, without adapters",
                where="serve.models",
                fix="set `serve.backend: torch` and `serve.quantize: none`",
            )
        model = model or self.model
        described = dict(Artifact(model).read_json("config.json"))
        return choose(self.backend, self.quantize, described, model, gpus=self.engine.gpus)

    def resolved(self) -> AppConfig:
        """The same settings, `backend: auto` replaced by what it takes here: all replicas have that."""
        chosen = self.choice()
        return self.model_copy(update={"backend": chosen.backend, "quantize": chosen.quantize})

    @property
    def web_arguments(self) -> tuple[WebConfig, str, int, int]:
        """Of `replicas.WebReplica`: pages are cut and embedded as the index is."""
        assert self.web is not None
        said = {**IndexConfig().model_dump(), **self._described}
        return self.web, str(said["embedding"]), int(said["passage_words"]), int(said["overlap_words"])

    @property
    def _described(self) -> dict[str, Any]:
        """The index's own description; empty without one."""
        return dict(Artifact(self.index).read_json(DESCRIPTION)) if self.index else {}

    def key_of(self, folder: str) -> str:
        """`STAGE/KEY` of a model in the store, `STAGE/KEY/adapter` of an adapter; else its folder."""
        inside = self.store and folder.startswith(f"{self.store}/")
        return folder.removeprefix(f"{self.store}/").replace("/model", "", 1) if inside else folder
