"""`headwater batch`: answer a file of prompts."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater.options import AddressOption, GpusOption, MaxWorkersOption, console


def batch(
    input_: Annotated[
        str, typer.Argument(metavar="INPUT.jsonl", help="Requests in OpenAI's batch format; a path or s3://.")
    ],
    output: Annotated[
        str, typer.Argument(metavar="OUTPUT.jsonl", help="File to write the answers to; a path or s3://.")
    ],
    model: Annotated[
        str, typer.Option(help="A Hugging Face model folder, such as STORE/rl/KEY/model; a path or s3://.")
    ],
    address: AddressOption = None,
    max_workers: MaxWorkersOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts that a worker decodes together.")] = 32,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum tokens per answer, unless the request sets it.")
    ] = 256,
    gpus_per_worker: GpusOption = 0.0,
    backend: Annotated[
        str, typer.Option(metavar="torch|openvino|auto", help="What computes the model on CPUs.")
    ] = "torch",
    quantize: Annotated[
        str, typer.Option(metavar="none|int8", help="int8: weights in 8 bits, with the backend openvino.")
    ] = "none",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output of another batch.")
    ] = False,
) -> None:
    """Answer every request of a file. Rerun the same command to resume."""
    from headwater.cluster.extras import require

    require("serve")
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.filesystem import filesystem, is_remote
    from headwater.cluster.storage.store import Store
    from headwater.serving.batch import run as batches

    chosen = batches.chosen(model, backend, quantize, gpus_per_worker)
    job = batches.BatchJob(
        *(input_, output, model, max_tokens, batch_size, gpus_per_worker), chosen.backend, chosen.quantize
    )
    places = batches.Places.of(output)
    summary = batches.finished(job, overwrite=overwrite)
    if summary is not None:
        batches.clean_up(job)
        _tell("already finished; nothing to do.", summary, places)
        return
    store = Store(places.work)
    with contextlib.ExitStack() as stack:
        if is_remote(output):
            logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-logs-")))
        else:
            logs = Path(f"{filesystem(output)[1]}.logs")
        session = stack.enter_context(
            Session(store, console=console, address=address, logs_to=logs, max_workers=max_workers)
        )
        if backend != "torch":
            console.print(f"{chosen}.", style="dim", highlight=False)
        summary = batches.run(job, session)
        _tell("done.", summary, places)


def _tell(state: str, summary: dict[str, Any], places: Any) -> None:
    errors = f" (see {places.errors})" if summary["errors"] else ""
    console.print(
        f"[bold green]✓[/] {state} {summary['prompts']:,} prompts, {summary['errors']:,} errors{errors}, "
        f"{summary['completion_tokens']:,} tokens, {summary['tokens_per_second']:,} tokens/s, "
        f"{summary['node_seconds']:,} node-seconds → {places.output}",
        highlight=False,
        soft_wrap=True,
    )
