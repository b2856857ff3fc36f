"""Which items of benchmarks occur in a corpus: 13 words in a row, as in GPT-3 (Brown et al. 2020, app. C)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headwater.cluster.runtime.parallel import map_units
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.corpus import kept_files, read_documents
from headwater.data_pipeline.dedup.minhash import simplified_words
from headwater.data_pipeline.dedup.shingles import xxh64_of_ngrams
from headwater.data_pipeline.filters.decontaminate import DecontaminateConfig, ngrams
from headwater.llm.benchmarks.tasks import Item


def contamination(
    session: Session, output: Artifact, corpus: Artifact, items: Mapping[str, Sequence[Item]]
) -> dict[str, dict[str, int]]:
    """Per benchmark, the number of items with an n-gram in the kept documents (`found`) and of items that are
    long enough to tell (`checked`).

    n-grams and their lengths are those of the cleaning step `decontaminate` with its defaults. What is looked
    for is the question (`Item.query`), not its choices.
    """
    config = DecontaminateConfig()
    hashes = {
        name: [ngrams(item.query, config.ngram, config.min_words) for item in some]
        for name, some in items.items()
    }
    known: dict[int, list[np.ndarray]] = {}
    for some in hashes.values():
        for n, values in filter(None, some):
            known.setdefault(n, []).append(values)
    results = map_units(
        session,
        output,
        "contamination",
        [{"unit": f"{number:06d}", "file": file} for number, file in enumerate(kept_files(corpus))],
        _Searcher,
        worker_args={"corpus": corpus, "known": {n: np.unique(np.concatenate(v)) for n, v in known.items()}},
    )
    there = np.array(sorted({value for result in results for value in result["found"]}), np.uint64)
    return {
        name: {
            "found": sum(bool(np.isin(each[1], there).any()) for each in some if each),
            "checked": sum(each is not None for each in some),
        }
        for name, some in hashes.items()
    }


class _Searcher:
    """Finds which of the known hashes occur in a file of documents."""

    def __init__(self, corpus: Artifact, known: dict[int, np.ndarray]) -> None:
        self._corpus, self._known = corpus, known

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        found: set[int] = set()
        for batch in read_documents(self._corpus, ["text"], files=[unit["file"]]):
            for text in batch.column("text").to_pylist():
                words, starts = simplified_words(text)
                for n, known in self._known.items():
                    hashes = xxh64_of_ngrams(words, starts, n)
                    nearest = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
                    found.update(hashes[known[nearest] == hashes].tolist())
        return {"found": sorted(found)}
