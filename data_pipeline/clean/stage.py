"""The stage `clean`: acquired documents → the corpus, with a reason for every dropped document.

Two passes over the parts of `acquire`. The first runs the per-document steps and writes texts and scores.
One process then decides on all documents from the scores, and the second pass writes the kept and rejected
documents. Each output file depends on its input part and on the corpus's duplicates, never on the number
or timing of workers.
"""

from __future__ import annotations

import collections
import functools
import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.extras import require
from headwater.cluster.runtime.needs import Moments, pool
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.clean import funnel
from headwater.data_pipeline.clean.card import described, write_card
from headwater.data_pipeline.clean.funnel import StepCount
from headwater.data_pipeline.clean.part_counts import PartCounts, count_part
from headwater.data_pipeline.clean.repeated_spans import STEP, Cutter, WindowWorker, find_spans
from headwater.data_pipeline.clean.score_documents import Measurer
from headwater.data_pipeline.clean.scores import SCORES, Signer, read_scores, schema, score_row
from headwater.data_pipeline.clean.select_documents import DECISION_SCHEMA, Decisions
from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.corpus import KEPT, REJECTED
from headwater.data_pipeline.dedup.substring import SubstringConfig
from headwater.data_pipeline.documents import METADATA, Document, from_table, to_table
from headwater.data_pipeline.documents import SCHEMA as DOCUMENT_SCHEMA
from headwater.data_pipeline.parts import DOCUMENTS
from headwater.data_pipeline.tables import DECISIONS, TEXTS, read_table, write_table
from headwater.data_pipeline.text.words.segmented import PACKAGES
from headwater.data_pipeline.verdict import Rejection

OF_A_REJECTED = ("id", "url", "title", "source", "fetched_at", "language", "licence", "text")

REJECTED_SCHEMA = pa.schema([*DECISION_SCHEMA, *(DOCUMENT_SCHEMA.field(name) for name in OF_A_REJECTED)])


class Clean(Stage[CleanConfig]):
    """Writes `kept/*.parquet` (documents.SCHEMA), `rejected/`, `scores/`, the funnel and the data card."""

    name: ClassVar[str] = "clean"
    version: ClassVar[int] = 5
    inputs: ClassVar[tuple[str, ...]] = ("acquire",)
    off_fields: ClassVar[frozenset[str]] = frozenset({"filters"})

    def fingerprint(self, session: Session) -> dict[str, Any]:
        from headwater.data_pipeline.filters.lists import fingerprint

        return fingerprint(self.config.files())

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return [pool()]

    def check(self) -> None:
        """Raise HeadwaterError if a language asked for needs packages that are not installed, or a filter of
        the user's own file cannot be made."""
        for custom in self.config.filters:
            custom.filter.measurer()
        splitters = {self.config.splitter(code) for code in self.config.language.languages}
        require("languages", only=[name for splitter in splitters for name in PACKAGES.get(splitter, ())])

    def files(self) -> Iterable[tuple[str, str]]:
        for step in self.config.steps():
            for file in getattr(self.config.settings(step), "files", ()):
                yield step, file

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        from headwater.cluster.runtime.parallel import map_units

        acquired = inputs["acquire"]
        parts = acquired.files(DOCUMENTS, ".parquet")
        units = [{"unit": PurePosixPath(name).stem, "part": name} for name in parts]
        manifest = acquired.manifest()
        read = manifest.metrics if manifest is not None else {}
        progress: dict[str, Any] = {
            "size": lambda result: result["documents"],
            "total": read.get("documents"),
            "unit_name": "documents",
        }
        arguments: dict[str, Any] = {"config": self.config, "output": output, "acquired": acquired}
        measured = map_units(
            session, output, "measure", units, MeasureWorker, worker_args=arguments, **progress
        )
        started = time.perf_counter()
        decisions = self._decide([unit["unit"] for unit in units], output)
        seconds = _seconds(measured) | {"decide": round(time.perf_counter() - started, 3)}
        cutting = self.config.substring_dedup if self.config.substring_dedup.enabled else None
        if cutting is not None:
            arguments = {"config": cutting, "output": output}
            map_units(session, output, "windows", units, WindowWorker, worker_args=arguments, **progress)
            find_spans(output, [unit["unit"] for unit in units], cutting)
        arguments = {"output": output, "cutting": cutting}
        written = map_units(session, output, "write", units, WriteWorker, worker_args=arguments, **progress)
        counts = whole_funnel(decisions, read.get("rejected", {}))
        if cutting is not None:
            counts.append(StepCount(STEP))
            for row in itertools.chain.from_iterable(result["funnel"] for result in written):
                counts[-1].add(row)
        more = {"unread": read.get("rejected", {}), "units": read.get("units"), "cpu_seconds": seconds}
        documents = PartCounts(result["counts"] for result in written)
        metrics = report(counts, documents, decisions.replaced, output, session)
        write_card(output, documents, described(acquired), metrics["funnel"], metrics["replaced"])
        return metrics | more

    def _decide(self, units: list[str], output: Artifact) -> Decisions:
        """Decide on every document and write one file of decisions per unit."""
        decisions = Decisions(functools.partial(read_scores, output), units, self.config)
        for unit in units:
            write_table(output, f"{DECISIONS}/{unit}.parquet", decisions.of(unit))
        return decisions


def report(
    counts: list[StepCount],
    documents: PartCounts,
    replaced: Mapping[str, int],
    output: Artifact,
    session: Session,
) -> dict[str, Any]:
    """Write and print the funnel and the number of replaced identifiers by kind. Returns the metrics."""
    rows = [count.row() for count in counts]
    replaced = dict(sorted(replaced.items()))
    languages = documents.by_language()
    output.write_json("funnel.json", {"steps": rows, "replaced": replaced, "languages": languages})
    output.write_bytes("funnel.png", funnel.picture(counts))
    session.console.print(funnel.table(counts))
    if sum(row["kept"] > 0 for row in languages.values()) > 1:
        session.console.print(funnel.language_table(languages))
    if replaced:
        session.say("replaced: " + ", ".join(f"{kind} {n:,}" for kind, n in replaced.items()))
    kept = counts[-1].documents_out
    if kept == 0:
        most = collections.Counter({f"{c.step} ({r})": n for c in counts for r, n in c.reasons.items()})
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in most.most_common(3))
        raise HeadwaterError(
            f"no document is left: {reasons}",
            where=output.path("funnel.json"),
            fix="disable a step or change its threshold in `clean`, or read other sources",
        )
    return {
        "documents_in": counts[0].documents_out,
        "documents_kept": kept,
        "documents_rejected": counts[0].documents_out - kept,
        "characters_kept": counts[-1].characters_out,
        "replaced": replaced,
        "funnel": rows,
    }


def whole_funnel(decisions: Decisions, unread: Mapping[str, int]) -> list[StepCount]:
    """The funnel with acquisition as its first step. `unread` counts unreadable inputs by reason."""
    read = decisions.counts[0]
    first = StepCount("acquire", read.documents_in + sum(unread.values()), read.documents_in)
    first.characters_in = first.characters_out = read.characters_in
    first.reasons.update(unread)
    return [first, *decisions.counts]


class MeasureWorker:
    """First pass over one part: writes the texts after the steps, and the scores."""

    def __init__(self, config: CleanConfig, output: Artifact, acquired: Artifact) -> None:
        self._output, self._acquired, self._schema = output, acquired, schema(config)
        self._measure, self._sign = Measurer(config), Signer(config)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        self._measure.seconds = dict.fromkeys(self._measure.seconds, 0.0)
        documents = from_table(read_table(self._acquired, unit["part"]))
        texts: list[Document] = []
        rows: list[dict[str, Any]] = []
        signing = 0.0
        for document in documents:
            found = self._measure(document)
            started = time.perf_counter()
            compared = found.stop is None and not found.left_out
            signature = self._sign(found.document.text if compared else "", found.splitter)
            signing += time.perf_counter() - started
            self._measure.redact(found)
            texts.append(found.document)
            rows.append(score_row(found, signature))
        write_table(self._output, f"{TEXTS}/{unit['unit']}.parquet", to_table(texts))
        write_table(
            self._output, f"{SCORES}/{unit['unit']}.parquet", pa.Table.from_pylist(rows, self._schema)
        )
        return {"documents": len(documents), "seconds": self._measure.seconds | {"signatures": signing}}


class WriteWorker:
    """Second pass over one part: writes kept and rejected documents in reading order."""

    def __init__(self, output: Artifact, cutting: SubstringConfig | None = None) -> None:
        self._output, self._cutting = output, cutting

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        name = unit["unit"]
        texts = read_table(self._output, f"{TEXTS}/{name}.parquet")
        decisions = read_table(self._output, f"{DECISIONS}/{name}.parquet")
        cuts = []
        if self._cutting is not None:
            cutter = Cutter(self._cutting, self._output, name)
            texts, decisions = _cut(texts, decisions, cutter)
            cuts = [cutter.count.row()]
        kept = pc.is_null(decisions["step"])
        stored = [*OF_A_REJECTED, *(["metadata"] if "metadata" in texts.column_names else [])]
        schema = REJECTED_SCHEMA.append(METADATA) if len(stored) > len(OF_A_REJECTED) else REJECTED_SCHEMA
        rejected = pa.Table.from_arrays([*decisions.columns, *texts.select(stored).columns], schema=schema)
        texts, rejected = texts.filter(kept), rejected.filter(pc.invert(kept))
        write_table(self._output, f"{KEPT}/{name}.parquet", texts)
        write_table(self._output, f"{REJECTED}/{name}.parquet", rejected)
        counts = count_part(self._output, name, texts, rejected)
        return {"documents": len(kept), "funnel": cuts, "counts": counts}


def _cut(texts: pa.Table, decisions: pa.Table, cutter: Cutter) -> tuple[pa.Table, pa.Table]:
    """Texts and decisions after cutting repeated spans from the kept texts."""
    rows, kept = texts["text"].to_pylist(), pc.is_null(decisions["step"]).to_numpy()
    fates = decisions.to_pylist()
    for row, left in zip(np.flatnonzero(kept), cutter(texts["text"].filter(kept).to_pylist()), strict=True):
        if isinstance(left, Rejection):
            fates[row] = {"step": STEP, **asdict(left)}
        else:
            rows[row] = left
    column = texts.column_names.index("text")
    changed = texts.set_column(column, DOCUMENT_SCHEMA.field("text"), pa.array(rows, pa.large_string()))
    return changed, pa.Table.from_pylist(fates, DECISION_SCHEMA)


def _seconds(measured: list[dict[str, Any]]) -> dict[str, float]:
    """Total CPU seconds of all workers, by step."""
    totals: collections.Counter[str] = collections.Counter()
    for result in measured:
        totals.update(result["seconds"])
    return {step: round(value, 3) for step, value in totals.items()}
