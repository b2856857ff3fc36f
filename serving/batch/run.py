"""Run a batch: cut the input into units, answer them in a worker pool, join the results in input order.

Next to OUTPUT.jsonl are OUTPUT.errors.jsonl (if there are errors), OUTPUT.summary.json (written last, marks
the batch as finished) and, until then, the folder OUTPUT.work/ with the plan and the finished units. An
interrupted run resumes from that folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast, get_args

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.node_usage import NodeUsage, count_nodes
from headwater.cluster.runtime.parallel import map_units
from headwater.cluster.runtime.pool import Share
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, create_file, file_in
from headwater.cluster.storage.filesystem import filesystem, is_remote, list_files
from headwater.cluster.storage.lock import exclusive
from headwater.cluster.versions import recorded_versions
from headwater.llm.inference import prepare
from headwater.llm.inference.backends import Backend, Choice, Quantize, Wanted, choose
from headwater.serving.batch.lines import BatchUnits, plan
from headwater.serving.batch.requests import line_id
from headwater.serving.batch.worker import ANSWERS, ERRORS, BatchWorker

FORMAT = 1
"""Version of the output; increased when the same input and settings give a different output."""
BATCHES_PER_UNIT = 8
"""Unit size in batches: small enough to redo if a worker dies, large enough to limit the number of files."""
PLAN, RUNS = "plan.json", "runs"


@dataclass(frozen=True)
class BatchJob:
    """A batch: input, output, model, and settings. `gpus_per_worker` does not change the output."""

    input: str
    output: str
    model: str
    max_tokens: int = 256
    """Maximum tokens per answer, unless the request sets it."""
    batch_size: int = 32
    """Prompts that a worker decodes together."""
    gpus_per_worker: float = 0.0
    backend: Backend = "torch"
    quantize: Quantize = "none"

    def identity(self) -> dict[str, Any]:
        """Everything that determines the output. Raises HeadwaterError if the input or model is missing."""
        made_by = {} if self.backend == "torch" else {"backend": self.backend, "quantize": self.quantize}
        return {
            "format": FORMAT,
            "input": _stamp(self.input),
            "model": _model_stamp(self.model),
            "max_tokens": self.max_tokens,
            "batch_size": self.batch_size,
            **made_by,
        }


def chosen(model: str, backend: str, quantize: str, gpus: float) -> Choice:
    """What computes a batch's model. Raises HeadwaterError if it cannot be had."""
    for given, known, name in ((backend, Wanted, "backend"), (quantize, Quantize, "quantize")):
        if given not in get_args(known):
            raise HeadwaterError(f"--{name} is {' or '.join(get_args(known))}, not {given}")
    folder = Artifact(model)
    if (backend, quantize) == ("torch", "none") or not folder.exists("config.json"):
        return Choice("torch", "none", "as set")  # `BatchJob.identity` refuses a folder without a model
    return choose(
        cast(Wanted, backend), cast(Quantize, quantize), folder.read_json("config.json"), model, gpus=gpus
    )


@dataclass(frozen=True)
class Places:
    """Paths of a batch's files."""

    output: str
    errors: str
    summary: str
    work: str

    @classmethod
    def of(cls, output: str) -> Places:
        stem = output.removesuffix(".jsonl")
        return cls(output, f"{stem}.errors.jsonl", f"{stem}.summary.json", f"{stem}.work")


def finished(job: BatchJob, *, overwrite: bool = False) -> dict[str, Any] | None:
    """The summary if this batch is finished, otherwise None.

    Raises HeadwaterError if the output belongs to another batch; with `overwrite`, deletes that instead.
    """
    places, identity = Places.of(job.output), job.identity()
    if any(_same(job.input, place) for place in (places.output, places.errors, places.summary)):
        raise HeadwaterError(
            "the output, error or summary file would replace the input",
            where=job.output,
            fix="choose another output",
        )
    summary, planned = _read(places.summary), _read(f"{places.work}/{PLAN}")
    found = summary or planned
    folder, name = file_in(places.output)
    made = folder.exists(name)
    if found is None and not made:
        return None
    if found is not None and found["identity"] == identity:
        # A summary without its output: the output was moved or deleted, so make it again.
        if summary is not None and made:
            return summary
        if summary is not None:
            _delete(places.summary)
        return None
    if not overwrite:
        raise HeadwaterError(
            f"this output belongs to another batch ({_difference(found, identity)})",
            where=places.output,
            fix="choose another output, or replace it with --overwrite",
        )
    for location in (places.summary, places.output, places.errors):
        _delete(location)
    Artifact(places.work).delete_folder("")
    return None


def run(job: BatchJob, session: Session) -> dict[str, Any]:
    """Run the unfinished units of a batch (see `finished`) and return its summary."""
    places = Places.of(job.output)
    work = Artifact(places.work)
    prepare(job.model, backend=job.backend, quantize=job.quantize)
    with _locked(places):
        planned = _plan(job, work, session)
        run_name, started = uuid.uuid4().hex[:8], datetime.now(UTC).isoformat(timespec="seconds")

        def record(usage: NodeUsage) -> None:
            work.write_json(f"{RUNS}/{run_name}.json", {"started_at": started, **usage.row()})

        with count_nodes(session, record):
            results = map_units(
                session,
                work,
                "batch",
                planned.units,
                BatchWorker,
                worker_args={
                    "source": job.input,
                    "model": Artifact(job.model),
                    "output": work,
                    "max_tokens": job.max_tokens,
                    "batch_size": job.batch_size,
                    "gpus": job.gpus_per_worker,
                    "backend": job.backend,
                    "quantize": job.quantize,
                },
                size=lambda result: result["answers"] + result["errors"],
                total=planned.requests,
                unit_name="prompts",
                share=Share(cpus=1, gpus=job.gpus_per_worker),
            )
            _join(places.output, work, ANSWERS, planned, results)
            if any(result["errors"] for result in results):
                _join(places.errors, work, ERRORS, planned, results)
        summary = _summary(job, work, planned, results)
        folder, name = file_in(places.summary)
        folder.write_json(name, summary)
    clean_up(job)
    return summary


def clean_up(job: BatchJob) -> None:
    """Delete the work folder of a finished batch. Called again later, in case a killed run left it."""
    Artifact(Places.of(job.output).work).delete_folder("")


# -- the plan ------------------------------------------------------------------------------------
def _plan(job: BatchJob, work: Artifact, session: Session) -> BatchUnits:
    """The units of an earlier run, or new ones from one pass over the input."""
    if work.exists(PLAN):
        return BatchUnits(**work.read_json(PLAN)["plan"])
    identity = job.identity()
    fs, path = filesystem(job.input)
    size = fs.get_file_info(path).size
    with session.progress("scan", size, "bytes") as shown, fs.open_input_stream(path) as stream:
        found = plan(stream, size, job.batch_size * BATCHES_PER_UNIT, line_id, shown.advance)
    work.write_json(PLAN, {"identity": identity, "plan": asdict(found)})
    return found


# -- the end -------------------------------------------------------------------------------------
def _join(
    target: str, work: Artifact, folder: str, planned: BatchUnits, results: Sequence[dict[str, Any]]
) -> None:
    """Concatenate the units' files in input order. Units without records in `folder` have no file."""
    with create_file(target) as stream:
        for unit, result in zip(planned.units, results, strict=True):
            if result[folder]:
                stream.write(work.read_bytes(f"{folder}/{unit['unit']}.jsonl"))


def _summary(
    job: BatchJob, work: Artifact, planned: BatchUnits, results: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Summary of the batch; times and node-seconds are summed over all its runs."""
    total = {
        name: sum(result[name] for result in results)
        for name in ("answers", "errors", "prompt_tokens", "completion_tokens")
    }
    assert total["answers"] + total["errors"] == planned.requests, "the records do not match the lines"
    runs = sorted((work.read_json(name) for name in work.files(RUNS)), key=lambda one: one["started_at"])
    seconds = sum(one["seconds"] for one in runs)
    return {
        "identity": job.identity(),
        "prompts": planned.requests,
        **total,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(total["completion_tokens"] / max(seconds, 0.1), 1),
        "node_seconds": round(sum(one["node_seconds"] for one in runs), 1),
        "runs": runs,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": recorded_versions(),
    }


# -- files ---------------------------------------------------------------------------------------
@contextlib.contextmanager
def _locked(places: Places) -> Iterator[None]:
    """Allow one driver at a time. Without locks on S3, two drivers do the same work with the same result."""
    if is_remote(places.work):
        yield
        return
    with exclusive(
        Path(filesystem(places.work)[1]),
        HeadwaterError("another run is writing this output", where=places.output, fix="wait for it to end"),
    ):
        yield


def _stamp(location: str) -> dict[str, Any]:
    fs, path = filesystem(location)
    info = fs.get_file_info(path)
    if not info.is_file:
        raise HeadwaterError("no such file", where=location, fix="give a JSONL file")
    return {"location": location if is_remote(location) else path, "size": info.size, "mtime": info.mtime_ns}


def _model_stamp(location: str) -> dict[str, Any]:
    _, root = filesystem(location)
    files = [(i.path.removeprefix(root), i.size, i.mtime_ns) for i in list_files(location)]
    if not any(name == "/config.json" for name, _, _ in files):
        raise HeadwaterError(
            "not a model folder (no config.json)",
            where=location,
            fix="give a folder with config.json, model.safetensors and tokenizer.json",
        )
    digest = hashlib.sha256(repr(files).encode()).hexdigest()[:16]
    return {"location": location if is_remote(location) else root, "files": digest}


def _difference(found: dict[str, Any] | None, identity: dict[str, Any]) -> str:
    if found is None:
        return "it has no summary file"
    changed = [name for name in identity if found["identity"].get(name) != identity[name]]
    return f"made with another {', '.join(changed)}".replace("_", " ")


def _same(one: str, other: str) -> bool:
    return filesystem(one)[1] == filesystem(other)[1] and is_remote(one) == is_remote(other)


def _read(location: str) -> dict[str, Any] | None:
    folder, name = file_in(location)
    return folder.read_json(name) if folder.exists(name) else None


def _delete(location: str) -> None:
    folder, name = file_in(location)
    folder.delete(name)
