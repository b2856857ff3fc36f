"""The OpenVINO backend: the forward pass of Llama-shaped models on a CPU, in fp32 or with 8-bit weights."""

from __future__ import annotations

import sys
from typing import Any


def runtime() -> Any:
    """The module `openvino`, without its telemetry: where openvino-telemetry can be imported, importing
    openvino reports to Google Analytics."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # its import now fails
    import openvino

    return openvino
