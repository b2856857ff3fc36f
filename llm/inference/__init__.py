"""Inference: one interface (`base.Engine`) and the backends torch and openvino that implement it.

`forward/` computes logits, `next_token/` chooses from them, `batching.py` decides who is in a step.
`training`, `rl`, `stages` and `serving` may import it.
Add a backend as a subclass of `engine.BatchedEngine`, name it in `backends` and open it in `load_engine`.
"""

from __future__ import annotations

from pathlib import Path

from headwater.cluster.storage.artifact import Artifact
from headwater.llm.inference.backends import Backend, Quantize
from headwater.llm.inference.base import Completion, Engine, Sampling

__all__ = ["Completion", "Engine", "Sampling", "device_of", "load_engine", "prepare"]


def device_of(gpus: float) -> str:
    """The compute device for a number of reserved GPUs."""
    return "cuda" if gpus else "cpu"


def prepare(folder: str, *, backend: Backend, quantize: Quantize) -> None:
    """Make once what all processes read that `load_engine` this model: for openvino its conversion."""
    if backend == "openvino":
        from headwater.llm.inference.openvino.converted import convert

        convert(folder, int8=quantize == "int8")


def load_engine(
    folder: str | Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    backend: Backend = "torch",
    quantize: Quantize = "none",
) -> Engine:
    """Open a Hugging Face model folder (config, safetensors, tokenizer) on a disk or in S3 for inference.

    Pass `device_of` the reserved GPUs as `device`: a process may see GPUs it has not reserved. `backend` and
    `quantize`: as `backends.choose` gives them.
    """
    if backend == "openvino":
        from headwater.llm.inference.openvino.engine import OpenVinoEngine

        return OpenVinoEngine.load(folder, int8=quantize == "int8", threads=threads)
    from headwater.llm.inference.torch_engine import TorchEngine

    return TorchEngine.load(Artifact(str(folder)).local(), device=device, threads=threads)
