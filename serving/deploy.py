"""Build the endpoint from a Serve config (`import_path: headwater.serving.deploy:application`, with `args`).

With a Serve config (KubeRay's RayService, `serve deploy`), Serve's HTTP options set the addresses to listen
on, usually all of them. Therefore API keys are required here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from headwater.cluster.errors import HeadwaterError
from headwater.llm.inference import prepare
from headwater.serving.app import build, check
from headwater.serving.config import AppConfig

if TYPE_CHECKING:
    from ray.serve import Application

IMPORT_PATH = "headwater.serving.deploy:application"


def application(args: dict[str, Any]) -> Application:
    """The Serve application for the settings of an `AppConfig`. Serve calls this on a node of the cluster.

    Raises HeadwaterError for a wrong or missing setting, key file or model; Serve shows it as the
    application's status message.
    """
    try:
        config = AppConfig.model_validate(args)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()
        )
        raise HeadwaterError(faults, where=IMPORT_PATH, fix="correct `args` of the application") from error
    if not config.api_keys:
        raise HeadwaterError(
            "no API keys are set, but this endpoint is open to the network",
            where=IMPORT_PATH,
            fix="set `api_keys` to a file with one key per line",
        )
    choice = check(config)
    prepare(config.model, backend=choice.backend, quantize=choice.quantize)
    return build(config)
