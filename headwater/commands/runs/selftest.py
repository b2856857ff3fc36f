"""`headwater selftest`: does this machine train, resume, generate and measure up to the plan?"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from headwater.cluster.errors import HeadwaterError
from headwater.options import JsonOption, console
from headwater.tables import print_json, show

if TYPE_CHECKING:
    from headwater.llm.selftest.checks import Check, Row

STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def selftest(
    gpu: Annotated[bool, typer.Option("--gpu", help="Check the first GPU instead of the CPUs.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Only checks whose name contains this; repeatable."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Train, resume, generate and measure on this machine; compare with plain torch and the plan.

    Needs no network, no store and no recipe. Takes a minute on CPUs, and up to eight with --gpu.
    Exits with 1 if a check failed.
    """
    from headwater.cluster.extras import require
    from headwater.cluster.versions import recorded_versions
    from headwater.llm.selftest.checks import run

    require("train", "serve", only=("torch", "deepspeed", "transformers", "llguidance"))
    with _checks(gpu) as checks:
        chosen = [c for c in checks if not only or any(text in c.name for text in only)]
        if not chosen:
            raise HeadwaterError("no check has such a name", where="--only", fix="run all to see the names")
        rows: list[Row] = []
        with Console(stderr=True).status("") as status:
            for check in chosen:
                status.update(check.name)
                rows += run(check)
    failed = [row for row in rows if row.result == "failed"]
    if json:
        machine = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
        versions = recorded_versions()
        print_json(
            {"ok": not failed, "gpu": gpu} | machine | {"versions": versions, "checks": [*map(asdict, rows)]}
        )
    else:
        show(console, _table(rows))
        skipped = sum(row.result == "skipped" for row in rows)
        passed = len(rows) - len(failed) - skipped
        console.print(f"{passed} passed, {len(failed)} failed, {skipped} skipped", highlight=False)
    if failed:
        raise typer.Exit(1)


@contextlib.contextmanager
def _checks(gpu: bool) -> Iterator[list[Check]]:
    """The checks, while their processes live. Raises HeadwaterError without a GPU to check."""
    os.environ["DS_ACCELERATOR"] = "cuda" if gpu else "cpu"  # otherwise DeepSpeed prints what it found
    import torch

    from headwater.llm.selftest import suite
    from headwater.llm.selftest.place import Place

    if gpu and not torch.cuda.is_available():
        raise HeadwaterError(
            "torch finds no GPU here",
            where="--gpu",
            fix="check nvidia-smi and that torch is a CUDA build, or omit --gpu",
        )
    with Place("cpu") as cpu:
        if not gpu:
            yield [*suite.of_cpu(cpu)]
            return
        with Place("cuda") as cuda:
            yield [*suite.of_gpu(cuda, cpu)]


def _table(rows: list[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("check", "result", "figure", "expected"):
        table.add_column(column)
    table.add_column("s", justify="right")
    for row in rows:
        result = f"[{STYLES[row.result]}]{row.result}[/]"
        why = f": {escape(row.reason)}" if row.reason else ""
        table.add_row(row.check, result + why, escape(row.figure), escape(row.expected), f"{row.seconds:.1f}")
    return table
