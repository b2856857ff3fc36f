"""The endpoint for a Serve config: `import_path: headwater.serving.deploy:application`, settings in `args`.

Where a Serve config deploys the endpoint (KubeRay's RayService, `serve deploy`), Serve's own HTTP options
say on which addresses it listens, usually all of them. So keys are asked for here, whatever stands in front.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from headwater.cluster.errors import HeadwaterError
from headwater.serving.app import build, check
from headwater.serving.config import AppConfig

if TYPE_CHECKING:
    from ray.serve import Application

IMPORT_PATH = "headwater.serving.deploy:application"


def application(args: dict[str, Any]) -> Application:
    """The graph for the settings of an `AppConfig`. Serve calls it on a node of the cluster.

    Raises HeadwaterError for a wrong or missing setting, no keys, no model; Serve reports it as the
    application's message.
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
            "no API keys, and this endpoint is open to the network",
            where=IMPORT_PATH,
            fix="set `api_keys` to a file with one key a line",
        )
    check(config)
    return build(config)
