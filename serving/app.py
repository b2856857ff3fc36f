"""Build, start and stop the Serve application: HTTP ingress, passage search and model, scaled separately."""

from __future__ import annotations

import logging
import socket
import tempfile
from typing import TYPE_CHECKING, Any

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import is_remote
from headwater.cluster.storage.store import Store
from headwater.llm.inference import prepare
from headwater.llm.inference.backends import Choice
from headwater.serving import traces
from headwater.serving.api.door import environment
from headwater.serving.api.keys.auth import check_open, read_keys
from headwater.serving.config import AppConfig, ReplicaRange
from headwater.serving.models import ModelList, check_model
from headwater.serving.room import check_cpus, check_memory
from headwater.serving.web.provider import key_of

if TYPE_CHECKING:
    from ray.serve import Application

log = logging.getLogger("headwater")
APPLICATION = "headwater"
MANY = 100_000
HEALTH_PERIOD = 1.0
"""Seconds between health checks: so soon is a dead replica noticed, and another started. One that is alive
but does not answer has Serve's default of three times 30 s: a busy machine may take long."""
PROXY_CHECKS = {
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
}
"""Serve starts another proxy when three checks in a row have failed; by default they are 10 s apart. One that
is not ready within the timeout (by default 5 s, too short for a busy machine) has failed a check."""


def build(config: AppConfig) -> Application:
    """The Serve application, not yet deployed."""
    from ray import serve

    from headwater.serving.api.ingress import Ingress
    from headwater.serving.replicas import EngineReplica, RetrievalReplica, WebReplica

    config = config.resolved()
    engine = serve.deployment(EngineReplica).options(  # type: ignore[attr-defined]
        name="Engine",
        max_constructor_retry_count=1,  # a failed load would fail again
        max_ongoing_requests=config.parallel_requests,
        # The ingress counts whoever waits. A place may be given back before Serve knows of the end.
        max_queued_requests=config.max_requests,
        graceful_shutdown_timeout_s=5,
        health_check_period_s=HEALTH_PERIOD,
        **_scaling(config.engine, config.parallel_requests, config.traces),
    )
    retrieval = serve.deployment(RetrievalReplica).options(  # type: ignore[attr-defined]
        name="Retrieval",
        max_constructor_retry_count=1,
        max_ongoing_requests=16,
        max_queued_requests=config.max_requests,
        graceful_shutdown_timeout_s=2,
        health_check_period_s=HEALTH_PERIOD,
        **_scaling(config.retrieval, 4, config.traces),
    )
    web = serve.deployment(WebReplica).options(  # type: ignore[attr-defined]
        name="Web",
        max_constructor_retry_count=1,
        max_ongoing_requests=config.web.questions_at_once if config.web else 1,
        max_queued_requests=config.max_requests,
        graceful_shutdown_timeout_s=2,
        health_check_period_s=HEALTH_PERIOD,
        **_scaling(config.web_reader, 4, config.traces),
    )
    ingress = serve.deployment(serve.ingress()(Ingress)).options(  # type: ignore[attr-defined]
        name="Ingress",
        # What is too much it refuses itself, at once: a request that waits for it holds up /healthz.
        max_ongoing_requests=MANY,
        graceful_shutdown_timeout_s=2,
        health_check_period_s=HEALTH_PERIOD,
        **_scaling(config.api, 64, config.traces),
    )
    return ingress.bind(
        config,
        engine.bind(config),
        retrieval.bind(config.index) if config.index else None,
        web.bind(*config.web_arguments) if config.web else None,
    )


def start(config: AppConfig, session: Session | None = None) -> str:
    """Deploy the endpoint, wait until it is ready, and return its address (http://host:port).

    Raises HeadwaterError when a setting is wrong, the cluster has no room for all replicas, others could
    reach it without a key, the port is taken, Serve runs already, or a part does not come up.
    """
    check_open(config.host, config.api_keys)
    choice = check(config)
    log.info("%s: %s", config.model, choice)
    config = config.resolved()
    session = session or Session(Store(tempfile.gettempdir()))
    check_cpus(config, session)
    session.ray()
    from ray import serve
    from ray.serve.config import ControllerOptions, HTTPOptions
    from ray.serve.schema import LoggingConfig

    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    port = config.port or _free_port(config.host)
    _check_port(config.host, port)
    if running := serve.status().applications:
        raise HeadwaterError(
            f"Ray Serve runs on this cluster already, with the applications {', '.join(running)}",
            where=config.model,
            fix="stop them (serve shutdown), or start the endpoint on another cluster",
        )
    prepare(config.model, backend=choice.backend, quantize=choice.quantize)
    ModelList(config, changed=False).forget_changes()  # of an earlier endpoint with the same settings
    inherited = ControllerOptions(  # by the proxy too
        runtime_env={
            "env_vars": PROXY_CHECKS
            | environment(config.max_requests, config.max_body_bytes, config.cors_origins)
            | traces.environment(config.traces)
        }
    )
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options=HTTPOptions(host=config.host, port=port),
            controller_options=inherited,
            logging_config=quiet,
            tracing_config=traces.tracing_config(config.traces),
        )
        serve.run(build(config), name=APPLICATION, route_prefix="/", logging_config=quiet)
    except TimeoutError as error:
        stop()
        raise HeadwaterError(
            f"the endpoint did not start: {error}",
            where=config.model,
            fix="free this machine's CPUs; with RAY_worker_niceness=0 Ray gets an equal share of them",
        ) from error
    except RuntimeError as error:
        reason = _failure() or str(error)
        stop()
        raise HeadwaterError(f"the endpoint did not start: {reason}", where=config.model) from error
    host = "127.0.0.1" if config.host in ("0.0.0.0", "") else config.host  # noqa: S104 - a comparison
    return f"http://{host}:{port}"


def stop() -> None:
    """Stop the endpoint, but not the Ray cluster."""
    from ray import serve

    serve.shutdown()


def check(config: AppConfig) -> Choice:
    """Validate settings and artifacts before deployment. Returns what will compute the model. Raises
    HeadwaterError."""
    from headwater.serving.retrieval.search import DESCRIPTION

    if not Artifact(config.model).exists("config.json"):
        raise HeadwaterError(
            "no model in this folder", where=config.model, fix="it needs config.json and model.safetensors"
        )
    if config.index and not Artifact(config.index).exists(DESCRIPTION):
        raise HeadwaterError(
            "no passage index here", where=config.index, fix="run the stage `index`, or correct the path"
        )
    if config.store and not is_remote(config.store):
        Store(config.store).check_writable()
    read_keys(config.api_keys)
    traces.check(config.traces)
    if config.web:
        key_of(config.web.search)
    served = ModelList(config, changed=False).now
    for each in list(served.values())[1:]:
        check_model(each)
    if len(served) > 1:
        check_memory(config, served.values())
    return config.choice()


def _scaling(scaling: ReplicaRange, target_ongoing: int, collector: str) -> dict[str, Any]:
    actor: dict[str, Any] = {"num_cpus": scaling.cpus, "num_gpus": scaling.gpus}
    if collector:
        actor["runtime_env"] = {"env_vars": traces.environment(collector)}
    options: dict[str, Any] = {"ray_actor_options": actor}
    if scaling.max_replicas > scaling.min_replicas:
        options["autoscaling_config"] = {
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": target_ongoing,
        }
    else:
        options["num_replicas"] = scaling.min_replicas
    return options


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise HeadwaterError(
                f"cannot listen on this address ({error.strerror})",
                where=f"{host}:{port}",
                fix="stop the process that uses it, or choose another port (0 picks a free one)",
            ) from error


def _failure() -> str:
    """The last traceback line of a failed deployment, or an empty string."""
    from ray import serve

    for application in serve.status().applications.values():
        for name, part in application.deployments.items():
            lines = [line.strip() for line in part.message.splitlines() if line.strip()]
            if part.status.value == "DEPLOY_FAILED" and lines:
                return f"{name}: {lines[-1]}"
    return ""
