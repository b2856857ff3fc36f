"""Questions of 13 words in a row are found in the kept documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.filters.decontaminate import ngrams
from headwater.llm.benchmarks.contamination import _Searcher, contamination
from headwater.llm.benchmarks.tasks import Item

LONG = "In which year did the council of the small town vote to rebuild the old bridge over the river"
MIDDLE = "Which bird sings in the garden every single morning?"
SHORT = "Which bird sings?"


def corpus(folder: Path, *files: list[str]) -> Artifact:
    (folder / "kept").mkdir(parents=True)
    for number, texts in enumerate(files):
        pq.write_table(pa.table({"text": texts}), folder / "kept" / f"{number}.parquet")
    return Artifact(str(folder), "clean")


def counts(tmp_path: Path, here: Session, *files: list[str]) -> dict[str, dict[str, int]]:
    items = {
        name: [Item((), 0, query) for query in queries]
        for name, queries in {"piqa": [LONG, SHORT], "sciq": [MIDDLE, LONG.replace("bridge", "wall")]}.items()
    }
    return contamination(here, Artifact(str(tmp_path / "out")), corpus(tmp_path / "clean", *files), items)


def test_a_question_in_a_document_is_found_however_it_is_written(tmp_path: Path, here: Session) -> None:
    files = [["Nothing here.", f"They asked: {LONG.upper()}!"], [f"Quiz. {MIDDLE} Why? {SHORT}"]]
    found = counts(tmp_path, here, *files)
    # Both long questions have the same 13 words up to the word in which they differ.
    assert found == {"piqa": {"found": 1, "checked": 1}, "sciq": {"found": 2, "checked": 2}}


def test_twelve_of_its_words_are_not_enough(tmp_path: Path, here: Session) -> None:
    twelve = " ".join(LONG.split()[:12])
    found = counts(tmp_path, here, [twelve, MIDDLE.replace("every", "each")])
    assert found == {"piqa": {"found": 0, "checked": 1}, "sciq": {"found": 0, "checked": 2}}


def test_every_known_ngram_of_a_document_is_found(tmp_path: Path) -> None:
    found = ngrams(LONG, 13, 8)
    assert found is not None and len(found[1]) == 7
    search = _Searcher(corpus(tmp_path / "clean", [f"{LONG}."]), {13: np.unique(found[1])})
    assert search({"file": "kept/0.parquet"}) == {"found": sorted(found[1].tolist())}
