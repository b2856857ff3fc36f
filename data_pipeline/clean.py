"""The stage `clean`: documents as they were read → the corpus, with a reason for every one left out.

Two passes over the parts of `acquire`. The first judges each document by itself (extraction,
language, quality) and makes its signature; then one process compares the signatures of all; the
second pass drops the duplicates, replaces personal identifiers and writes the result. Each output
file depends on its input part and on which documents of the corpus are duplicates, never on how
many workers there were or which was first.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.artifact import SCRATCH, Artifact
from cluster.errors import HeadwaterError
from cluster.session import Session
from cluster.stage import Stage
from data_pipeline import funnel
from data_pipeline.acquire import DOCUMENTS
from data_pipeline.corpus import KEPT
from data_pipeline.documents import Document, from_table, to_table
from data_pipeline.funnel import StepCount
from data_pipeline.judge import OWN_STEPS, CleanConfig, Judge

__all__ = ["Clean", "CleanConfig"]

REJECTED = "rejected"
SURVIVORS, DROPPED, SIGNATURES, DECISIONS = (
    f"{SCRATCH}/{name}" for name in ("survivors", "dropped", "signatures", "decisions")
)

REJECTED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("title", pa.string()),
        ("source", pa.string()),
        ("step", pa.string()),
        ("reason", pa.string()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("duplicate_of", pa.string()),
        ("text", pa.large_string()),
    ]
)

SIGNATURE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("length", pa.int64()),
        ("digest", pa.list_(pa.uint64())),
        ("keys", pa.list_(pa.uint64())),
    ]
)


class Clean(Stage[CleanConfig]):
    """`kept/*.parquet` (documents.SCHEMA), `rejected/*.parquet`, `funnel.json` and `funnel.png`."""

    name: ClassVar[str] = "clean"
    version: ClassVar[int] = 2
    inputs: ClassVar[tuple[str, ...]] = ("acquire",)

    def fingerprint(self, session: Session) -> dict[str, Any]:
        from data_pipeline.filters.lists import fingerprint

        return fingerprint(self.config.files())

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        from cluster.parallel import map_units

        acquired = inputs["acquire"]
        parts = acquired.files(DOCUMENTS, ".parquet")
        units = [{"unit": _stem(name), "part": name} for name in parts]
        manifest = acquired.manifest()
        read = manifest.metrics if manifest is not None else {}
        arguments = {"config": self.config, "output": output}
        progress: dict[str, Any] = {
            "size": lambda result: result["documents"],
            "total": read.get("documents"),
            "unit_name": "documents",
        }
        judged = map_units(
            session, output, "judge", units, JudgeWorker,
            worker_args=arguments | {"acquired": acquired}, **progress,
        )  # fmt: skip
        started = time.perf_counter()
        compared = self._compare(units, output)
        compare_seconds = time.perf_counter() - started
        progress["total"] = sum(result["survivors"] for result in judged)
        written = map_units(session, output, "write", units, WriteWorker, worker_args=arguments, **progress)
        counts = self._counts(read, judged, compared, written)
        seconds = _seconds(judged) | {"duplicates": round(compare_seconds, 3)}
        return self._report(counts, written, seconds, output, session)

    def _compare(self, units: list[dict[str, Any]], output: Artifact) -> list[StepCount]:
        """Find the duplicates among all survivors; one file of decisions for each unit."""
        from data_pipeline.dedup.decide import decide

        tables = [_read(output, f"{SIGNATURES}/{unit['unit']}.parquet") for unit in units]
        decisions, counts = decide(pa.concat_tables(tables), self.config) if tables else (None, [])
        start = 0
        for unit, rows in zip(units, tables, strict=True):
            assert decisions is not None
            name = f"{DECISIONS}/{unit['unit']}.parquet"
            _write(output, name, decisions.slice(start, rows.num_rows))
            start += rows.num_rows
        return counts

    def _counts(
        self,
        read: dict[str, Any],
        judged: list[dict[str, Any]],
        compared: list[StepCount],
        written: list[dict[str, Any]],
    ) -> list[StepCount]:
        steps = self.config.steps()
        own = funnel.total([s for s in steps if s in OWN_STEPS], (result["funnel"] for result in judged))
        first = StepCount("acquire", own[0].documents_in, own[0].documents_in)
        first.characters_in = first.characters_out = own[0].characters_in
        first.reasons.update(read.get("rejected", {}))
        first.documents_in += sum(first.reasons.values())
        last = [step for step in steps if step == "pii"]
        return [first, *own, *compared, *funnel.total(last, (result["funnel"] for result in written))]

    def _report(
        self,
        counts: list[StepCount],
        written: list[dict[str, Any]],
        seconds: dict[str, float],
        output: Artifact,
        session: Session,
    ) -> dict[str, Any]:
        rows = [count.row() for count in counts]
        replaced: collections.Counter[str] = collections.Counter()
        for result in written:
            replaced.update(result["replaced"])
        output.write_json("funnel.json", {"steps": rows, "replaced": dict(sorted(replaced.items()))})
        output.write_bytes("funnel.png", funnel.picture(counts))
        session.console.print(funnel.table(counts))
        if replaced:
            session.say("replaced: " + ", ".join(f"{kind} {n:,}" for kind, n in sorted(replaced.items())))
        kept = counts[-1].documents_out
        if kept == 0:
            most = collections.Counter({f"{c.step} ({r})": n for c in counts for r, n in c.reasons.items()})
            reasons = ", ".join(f"{reason} {number:,}" for reason, number in most.most_common(3))
            raise HeadwaterError(
                f"no document is left: {reasons}",
                where=output.path("funnel.json"),
                fix="switch a step off or change its threshold in `clean`, or read other sources",
            )
        return {
            "documents_in": counts[0].documents_out,
            "documents_kept": kept,
            "documents_rejected": counts[0].documents_out - kept,
            "characters_kept": counts[-1].characters_out,
            "replaced": dict(sorted(replaced.items())),
            "funnel": rows,
            "cpu_seconds": seconds,
        }


class JudgeWorker:
    """First pass over one part: survivors, their signatures, and the rejected."""

    def __init__(self, config: CleanConfig, output: Artifact, acquired: Artifact) -> None:
        from data_pipeline.dedup.minhash import MinHasher

        self._config, self._output, self._acquired = config, output, acquired
        self._judge, self._hasher = Judge(config), MinHasher(config.minhash_dedup)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        self._judge.restart()
        survivors: list[Document] = []
        dropped: list[dict[str, Any]] = []
        documents = from_table(_read(self._acquired, unit["part"]))
        for document in documents:
            result = self._judge(document)
            if isinstance(result, Document):
                survivors.append(result)
            else:
                step, rejection, last = result
                dropped.append(_rejected_row(last, step, **asdict(rejection)))
        started = time.perf_counter()
        signatures = self._signatures(survivors)
        seconds = self._judge.seconds | {"signatures": time.perf_counter() - started}
        name = unit["unit"]
        _write(self._output, f"{SURVIVORS}/{name}.parquet", to_table(survivors))
        _write(self._output, f"{DROPPED}/{name}.parquet", pa.Table.from_pylist(dropped, REJECTED_SCHEMA))
        _write(self._output, f"{SIGNATURES}/{name}.parquet", signatures)
        return {
            "documents": len(documents),
            "survivors": len(survivors),
            "funnel": [count.row() for count in self._judge.counts.values()],
            "seconds": seconds,
        }

    def _signatures(self, survivors: list[Document]) -> pa.Table:
        """id, source, length, digest and bucket keys of each survivor."""
        from data_pipeline.dedup.exact import text_digest

        texts = [document.text for document in survivors]
        digests = np.frombuffer(b"".join(map(text_digest, texts)), np.uint64).reshape(-1, 2)
        minhash = self._config.minhash_dedup
        buckets = minhash.buckets if minhash.enabled else 0
        keys = np.zeros((len(texts), buckets), np.uint64)
        for row, text in enumerate(texts if buckets else []):
            keys[row] = self._hasher.buckets(text)
        columns = [
            [document.id for document in survivors],
            [document.source for document in survivors],
            list(map(len, texts)),
            digests.tolist(),
            keys.tolist(),
        ]
        arrays = [
            pa.array(values, field.type) for values, field in zip(columns, SIGNATURE_SCHEMA, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=SIGNATURE_SCHEMA)


class WriteWorker:
    """Second pass over one part: without its duplicates and personal identifiers."""

    def __init__(self, config: CleanConfig, output: Artifact) -> None:
        self._config, self._output = config, output

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        from data_pipeline.filters.pii import redact

        name = unit["unit"]
        survivors = from_table(_read(self._output, f"{SURVIVORS}/{name}.parquet"))
        decisions = _read(self._output, f"{DECISIONS}/{name}.parquet").to_pylist()
        count, replaced = StepCount("pii"), collections.Counter[str]()
        kept: list[Document] = []
        duplicates: list[dict[str, Any]] = []
        for document, decision in zip(survivors, decisions, strict=True):
            if decision["step"] is not None:
                duplicates.append(_rejected_row(document, **decision))
                continue
            before = len(document.text)
            if self._config.pii.enabled:
                text, in_text = redact(document.text, self._config.pii)
                title, in_title = redact(document.title, self._config.pii)
                replaced.update(in_text)
                replaced.update(in_title)
                document = replace(document, text=text, title=title)
            count.keep(before, len(document.text))
            kept.append(document)
        dropped = _read(self._output, f"{DROPPED}/{name}.parquet")
        rejected = pa.concat_tables([dropped, pa.Table.from_pylist(duplicates, REJECTED_SCHEMA)])
        _write(self._output, f"{KEPT}/{name}.parquet", to_table(kept))
        _write(self._output, f"{REJECTED}/{name}.parquet", rejected)
        funnel_rows = [count.row()] if self._config.pii.enabled else []
        return {"documents": len(survivors), "funnel": funnel_rows, "replaced": dict(replaced)}


def _rejected_row(
    document: Document,
    step: str,
    reason: str,
    score: float | None,
    threshold: float | None,
    duplicate_of: str | None = None,
) -> dict[str, Any]:
    own = {name: getattr(document, name) for name in ("id", "url", "title", "source", "text")}
    return own | {
        "step": step,
        "reason": reason,
        "score": score,
        "threshold": threshold,
        "duplicate_of": duplicate_of,
    }


def _read(artifact: Artifact, name: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(artifact.read_bytes(name)))


def _write(artifact: Artifact, name: str, table: pa.Table) -> None:
    with artifact.create(name) as stream:
        pq.write_table(table, stream, compression="zstd")


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix(".parquet")


def _seconds(judged: list[dict[str, Any]]) -> dict[str, float]:
    """CPU seconds of all workers together, by step."""
    totals: collections.Counter[str] = collections.Counter()
    for result in judged:
        totals.update(result["seconds"])
    return {step: round(value, 3) for step, value in totals.items()}
