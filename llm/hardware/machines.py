"""What GPUs can do and cost: `hardware.yaml` plus the user's own price list."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from headwater.cluster.errors import HeadwaterError, did_you_mean
from headwater.cluster.runtime.stage import StageConfig

TABLE = Path(__file__).with_name("hardware.yaml")
MFU = (0.33, 0.38, 0.46)
"""Assumed share of peak FLOP/s in the passes of training: low, expected, high. torchtitan publishes 33-39 %
for Llama 3 on H100s (bf16, FSDP2), nanochat 46 % for its depth-20 model on eight of them."""


class Gpu(StageConfig):
    """One GPU of the table. Prices are in dollars."""

    memory_gb: float = Field(gt=0)
    peak_tflops: float = Field(gt=0)
    bandwidth_gb_s: float = Field(gt=0)
    link_gb_s: float = Field(32.0, gt=0)
    """To the other GPUs of its node, in one direction. Default: PCIe 4.0 x16."""
    host_link_gb_s: float = Field(32.0, gt=0)
    """To its host's memory, in one direction."""
    network_gb_s: float = Field(1.56, gt=0)
    """Of its node, per GPU. Default: 100 Gb/s for eight GPUs."""
    host_memory_gb: float = Field(64.0, gt=0)
    """Of its node, per GPU."""
    gpus_per_node: int = Field(8, ge=1)
    price_per_hour: float = Field(ge=0)
    source: str = ""
    price_source: str = ""


@dataclass(frozen=True)
class Machine:
    """A number of GPUs of one kind."""

    count: int
    name: str
    gpu: Gpu

    @property
    def dollars_per_hour(self) -> float:
        return self.count * self.gpu.price_per_hour

    @property
    def peak_flops(self) -> float:
        """FLOP/s of all GPUs together."""
        return self.count * self.gpu.peak_tflops * 1e12

    @property
    def exchange_bytes(self) -> float:
        """Bytes per second that each GPU exchanges with all others, in one direction: the slowest link's."""
        within = self.count <= self.gpu.gpus_per_node
        return 1e9 * (self.gpu.link_gb_s if within else min(self.gpu.link_gb_s, self.gpu.network_gb_s))


def read_table(prices: Path | None = None) -> dict[str, Gpu]:
    """Every known GPU by name. `prices` is a YAML file of the same form whose values take precedence."""
    rows: dict[str, dict[str, Any]] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    if prices is not None:
        own = _read(prices)
        rows |= {name: rows.get(name, {}) | row for name, row in own.items()}
    try:
        return TypeAdapter(dict[str, Gpu]).validate_python(rows)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors())
        raise HeadwaterError(
            faults, where=str(prices), fix="use the keys of llm/hardware/hardware.yaml"
        ) from error


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HeadwaterError("the price list does not exist", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise HeadwaterError(f"the price list is not readable YAML ({error})", where=str(path)) from error
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise HeadwaterError(
            "a price list must map GPU names to their values",
            where=str(path),
            fix="write for example  H100: {price_per_hour: 2.10}",
        )
    return rows


def parse_machine(text: str, table: dict[str, Gpu]) -> Machine:
    """Parse `8xH100`, `H100` or `2 x l40s`. Raises HeadwaterError that lists the known GPUs."""
    match = re.fullmatch(r"(?:(\d+)\s*[x×*]\s*)?(\S+)", text.strip(), re.IGNORECASE)
    names = {name.lower(): name for name in table}
    if match is None or match[2].lower() not in names or match[1] == "0":
        asked = match[2].lower() if match else text.lower()
        hint = "" if asked in names else did_you_mean(asked, table)
        raise HeadwaterError(
            f"{text} does not name known GPUs, such as 8xH100",
            where="--gpus",
            fix=f"{hint} known GPUs: {', '.join(table)}; --prices FILE adds more".lstrip(),
        )
    name = names[match[2].lower()]
    return Machine(int(match[1] or 1), name, table[name])
