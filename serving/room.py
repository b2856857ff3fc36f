"""Whether the endpoint's parts and its models fit into the cluster, told before anything starts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from headwater.cluster.doctor.checks import memory_limit
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Actors, Need, needs_of, nodes, refuse_too_large
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.model.adapter_files import TENSORS
from headwater.llm.model.files.source import find_model
from headwater.llm.model.files.stored import TensorFile

if TYPE_CHECKING:
    from headwater.cluster.runtime.session import Session
    from headwater.serving.config import AppConfig
    from headwater.serving.models import Served


def check_cpus(config: AppConfig, session: Session) -> None:
    """Raises HeadwaterError if the replicas that always run do not fit into a cluster that cannot grow."""
    actors = [
        Actors(
            f"`{name}` replicas",
            part.min_replicas,
            Need(part.cpus, part.gpus),
            (f"serve.{name}.min_replicas", f"serve.{name}.cpus"),
        )
        for name, part in config.parts(index=bool(config.index)).items()
    ]
    refuse_too_large("serve", actors, *nodes(session, gpus=any(need.gpus for need in needs_of(actors))))


def check_memory(config: AppConfig, models: Iterable[Served]) -> None:
    """Raises HeadwaterError if one replica's models, which are all in its memory, exceed this machine's.

    Weights alone are counted, as they are held: 4 bytes a number on CPUs. On GPUs nothing is said: the
    machine that starts the endpoint need not have them.
    """
    if config.engine.gpus:
        return
    sizes = {served: weights_bytes(served) for served in models}
    needed, there = sum(sizes.values()), memory_limit()
    if needed > there:
        told = ", ".join(f"{each.name} {_gigabytes(size)}" for each, size in sizes.items())
        raise HeadwaterError(
            f"the models need {_gigabytes(needed)} of memory in each replica of `engine` ({told}); "
            f"this machine has {_gigabytes(there)}",
            where="serve.models",
            fix="serve fewer or smaller models, or adapters of one base",
        )


def weights_bytes(served: Served) -> int:
    """Of a model's numbers in fp32, told by the headers of its files."""
    folder = Artifact(served.folder)
    if served.base is not None:
        names = [TENSORS]
    else:
        names = [name for name in find_model(served.folder).wanted() if name.endswith(".safetensors")]
    return sum(
        4 * math.prod(shape)
        for name in names
        for _, shape, _ in TensorFile(folder.path(name)).tensors.values()
    )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
