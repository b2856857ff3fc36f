"""Parity gate: an engine must give a model the log-probabilities that were recorded when the model was made.

`parity.json` in the model's folder holds fixed token ids and the log-probabilities that fp32 on a CPU gave
them. An engine on other hardware, in another precision or version has to come close to them before it serves.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.cluster.errors import HeadwaterError
from headwater.llm.inference import load_engine
from headwater.llm.model.files.export import PARITY as FILE

if TYPE_CHECKING:
    from headwater.llm.inference.base import Engine

TEXTS = (
    "The city council voted on Tuesday to rebuild the old stone bridge over the river.",
    "def add(a, b):\n    return a + b  # 12 + 30 = 42",
    "Où est la gare ? 駅はどこですか。",
)
MAX_IDS = 32
"""Of each text."""
DECIMALS = 5
MAX_BYTES = 1 << 30
"""Of the weights. Rank 0 exports a larger model without ever having all of it."""
log = logging.getLogger("headwater")


@dataclass(frozen=True)
class Bound:
    """Allowed differences of log-probabilities, in nats."""

    mean: float
    largest: float


BOUNDS = {
    "float32": Bound(1e-4, 1e-3),
    "bfloat16": Bound(0.05, 0.5),
    "float16": Bound(0.01, 0.1),
    "int8": Bound(0.15, 1.0),
}
"""By the type of the engine's weights. Orders of summation differ by some 1e-5 in fp32; bf16 keeps 8 bits.
int8 is of the backend openvino: 0.09 and 0.47 on SmolLM2-135M."""


def record_made(folder: Path) -> None:
    """Record a model that was just written. None for one that is not causal, or too large to be opened again
    beside what made it."""
    architectures = json.loads((folder / "config.json").read_text()).get("architectures") or [""]
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if not architectures[0].endswith("ForCausalLM"):
        return
    if size > MAX_BYTES:
        log.info("%s is too large for a %s: it is not opened again", folder, FILE)
        return
    record(folder, load_engine(folder))


def record(folder: Path, engine: Engine) -> None:
    """Write the record of a model into its folder. `engine`: in fp32 on a CPU."""
    ids = [engine.tokenizer.encode(text, add_special_tokens=False)[:MAX_IDS] for text in TEXTS]
    ids = [each for each in ids if len(each) > 1]
    logprobs = [[round(value, DECIMALS) for value in row] for row in _logprobs(engine, ids)]
    content = {"ids": ids, "logprobs": logprobs}
    (folder / FILE).write_text(json.dumps(content))


def check(folder: Path, engine: Engine) -> None:
    """Compare an engine with the record of its model; a folder without one passes, with a note in the log.

    Raises HeadwaterError past the bound, for values that are not finite, and for a record that cannot be
    read.
    """
    where = folder / FILE
    if not where.is_file():
        log.info("%s has no %s: the engine is not compared with the model's maker", folder, FILE)
        return
    check_record(where.read_text(), str(where), engine)


def check_record(record: str, where: str, engine: Engine) -> None:
    """Compare an engine with the content of a record. Raises HeadwaterError as `check`."""
    try:
        content: dict[str, Any] = json.loads(record)
        ids, recorded = (
            content["ids"],
            np.concatenate([np.asarray(row, float) for row in content["logprobs"]]),
        )
        found = np.concatenate([np.asarray(row, float) for row in _logprobs(engine, ids)])
        if found.shape != recorded.shape:
            raise ValueError(f"{len(recorded)} log-probabilities of {len(found)} ids")
        apart = np.abs(found - recorded)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise HeadwaterError(
            f"the record of the model's log-probabilities cannot be read ({error})",
            where=where,
            fix="export the model again, or delete the file",
        ) from error
    bound = BOUNDS[engine.precision]
    if not (apart.mean() <= bound.mean and apart.max() <= bound.largest):
        raise HeadwaterError(
            "this engine's log-probabilities differ from those that were recorded with the model by "
            f"{apart.mean():.2g} nats in the mean and {apart.max():.2g} at most "
            f"(allowed in {engine.precision}: {bound.mean:g} and {bound.largest:g})",
            where=where,
            fix="compare weights, versions and hardware; delete the file to serve the model all the same",
        )


def _logprobs(engine: Engine, ids: list[list[int]]) -> list[list[float]]:
    return engine.score([each[:1] for each in ids], [each[1:] for each in ids])
