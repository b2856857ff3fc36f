"""The step `substring_dedup` over the parts of a corpus, between the decisions and the final write.

A first pass writes the hashed windows of each part's kept texts; one process finds the repeated spans; the
pass that writes the corpus cuts them out. Texts are compared in their final form, with personal identifiers
replaced.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.cluster.storage.artifact import SCRATCH, Artifact
from headwater.data_pipeline.clean.funnel import StepCount
from headwater.data_pipeline.dedup.repeats import find_repeats, ranks, spans_of
from headwater.data_pipeline.dedup.substring import SubstringConfig, cut, rules
from headwater.data_pipeline.dedup.window_index import WindowFile, write_windows
from headwater.data_pipeline.tables import DECISIONS, TEXTS, read_table, write_table
from headwater.data_pipeline.verdict import Rejection, first_hit

STEP = "substring_dedup"
WINDOWS, SPANS = f"{SCRATCH}/windows", f"{SCRATCH}/spans"


class WindowWorker:
    """Hashes the kept texts of one part."""

    def __init__(self, config: SubstringConfig, output: Artifact) -> None:
        self._config, self._output = config, output

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        texts = kept_texts(self._output, unit["unit"])
        with self._output.create(_windows(unit["unit"])) as stream:
            write_windows(texts["text"].to_pylist(), self._config.span_words, stream)
        return {"documents": texts.num_rows}


def find_spans(output: Artifact, units: list[str], config: SubstringConfig) -> None:
    """Write the spans to cut from each part's kept texts."""
    names = [kept_texts(output, unit).select(["id", "source"]) for unit in units]
    together = pa.concat_tables(names)
    ids, places = (np.array(together[column].to_pylist()).astype(str) for column in ("id", "source"))
    borders = np.cumsum([table.num_rows for table in names])[:-1]
    files = [WindowFile(output.path(_windows(unit))) for unit in units]
    of_parts = np.split(ranks(ids, places), borders)
    with tempfile.TemporaryDirectory(prefix="headwater-") as scratch:
        found = find_repeats(files, of_parts, config.span_words, Path(scratch))
        for unit, spans in zip(units, found, strict=True):
            write_table(output, _spans(unit), spans)


class Cutter:
    """Cuts repeated spans from the texts of one part and counts the result."""

    def __init__(self, config: SubstringConfig, output: Artifact, unit: str) -> None:
        self._rules, self._spans = rules(config), read_table(output, _spans(unit))
        self.count = StepCount(STEP)

    def __call__(self, texts: list[str]) -> Iterator[str | Rejection]:
        """Yield each kept text in order after cutting, or its rejection."""
        for row, text in enumerate(texts):
            left, scores = cut(text, spans_of(self._spans, row))
            rejection = first_hit(scores, self._rules)
            if rejection is None:
                self.count.keep(len(text), len(left))
            else:
                self.count.drop(len(text), rejection.reason)
            yield rejection or left


def kept_texts(output: Artifact, unit: str) -> pa.Table:
    decisions = read_table(output, f"{DECISIONS}/{unit}.parquet")
    return read_table(output, f"{TEXTS}/{unit}.parquet").filter(pc.is_null(decisions["step"]))


def _windows(unit: str) -> str:
    return f"{WINDOWS}/{unit}.bin"


def _spans(unit: str) -> str:
    return f"{SPANS}/{unit}.parquet"
