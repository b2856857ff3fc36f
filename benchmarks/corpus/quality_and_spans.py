"""Speed of the steps `quality_classifier`, `toxicity` and `substring_dedup`, in MB of UTF-8 per CPU second.

    python -m benchmarks.corpus.quality_and_spans FILE… [--text-column text] [--characters 4000]

Reads any files that `headwater clean` reads, cuts them into pieces of `--characters`, and reports the share
of pieces flagged by LDNOOBW's English list and the number of repeated words, after a warm-up.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from headwater.data_pipeline.dedup.repeats import BYTES_PER_WINDOW, find_repeats, ranges, ranks, spans_of
from headwater.data_pipeline.dedup.substring import SubstringConfig, cut
from headwater.data_pipeline.dedup.window_index import WindowFile, write_windows
from headwater.data_pipeline.filters.classifiers.linear import LinearModel, ModelCard
from headwater.data_pipeline.filters.classifiers.toxicity import Toxicity, ToxicityConfig
from headwater.data_pipeline.filters.classifiers.training import TrainSettings
from headwater.data_pipeline.quality import read_texts
from headwater.data_pipeline.sources.spec import Columns
from headwater.data_pipeline.verdict import first_hit

PART = 512
"""Documents per part, as in `acquire`."""


@contextlib.contextmanager
def measured(name: str, amount: float, unit: str) -> Iterator[None]:
    started = time.process_time()
    yield
    spent = time.process_time() - started
    print(f"{name:<24}{amount / spent:8.1f} {unit}/s")


def score(texts: list[str], megabytes: float) -> None:
    buckets = TrainSettings().buckets
    weights = np.random.default_rng(0).normal(size=buckets).astype(np.float32)
    card = ModelCard(
        buckets=buckets, bias=0, slope=1, offset=0, weights_sha256="", training={}, held_out={}, versions={}
    )
    model = LinearModel(card, weights)
    model.score(texts[0])
    with measured("quality_classifier", megabytes, "MB"):
        for text in texts:
            model.score(text)


def flag(texts: list[str], megabytes: float) -> None:
    default = ToxicityConfig(languages=("en",))
    step = Toxicity(default)
    step.measure(texts[0])
    with measured("toxicity, English list", megabytes, "MB"):
        found = [step.measure(text) for text in texts]
    for count, share in ((1, 0.0), (2, 0.005), (3, 0.005), (3, 0.01)):
        config = default.model_copy(update={"min_count": count, "max_share": share})
        flagged = sum(first_hit(scores, config.rules()) is not None for scores in found)
        print(f"  at least {count}, above {share:.1%}: {flagged / len(texts):.2%} of the texts flagged")


def repeat(texts: list[str], megabytes: float, memory: int, folder: Path) -> None:
    words = SubstringConfig().span_words
    parts = [texts[start : start + PART] for start in range(0, len(texts), PART)]
    with (folder / "warm").open("wb") as stream:
        write_windows(texts[:1], words, stream)
    cut(texts[0], np.array([[0, 1]]))
    paths = [folder / f"{number}.windows" for number in range(len(parts))]
    with measured("substring_dedup, write", megabytes, "MB"):
        for part, path in zip(parts, paths, strict=True):
            with path.open("wb") as stream:
                write_windows(part, words, stream)
    files = [WindowFile(str(path)) for path in paths]
    names = np.arange(len(texts))
    ranked = np.split(ranks(names, names), range(PART, len(texts), PART))
    total = sum(file.windows for file in files)
    with measured("substring_dedup, find", total / 1e6, "M windows"):
        tables = list(find_repeats(files, ranked, words, folder, memory))
    gone = 0.0
    with measured("substring_dedup, cut", megabytes, "MB"):
        for part, table in zip(parts, tables, strict=True):
            for row, text in enumerate(part):
                gone += cut(text, spans_of(table, row))[1]["words_cut"]
    size = sum(path.stat().st_size for path in paths) / 1e6
    pieces = len(ranges(files, memory // BYTES_PER_WINDOW))
    print(f"  {total:,} windows, {size:,.0f} MB of files, {pieces} ranges; {gone:,.0f} words cut")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--characters", type=int, default=4000)
    parser.add_argument("--memory-mb", type=int, default=64)
    options = parser.parse_args()
    unread = collections.Counter[str]()
    read = read_texts(tuple(options.files), Columns(text=options.text_column), unread)
    size = options.characters
    texts = [text[start : start + size] for text in read for start in range(0, len(text), size)]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts):,} texts, {megabytes:.1f} MB")
    score(texts, megabytes)
    flag(texts, megabytes)
    with tempfile.TemporaryDirectory() as folder:
        repeat(texts, megabytes, options.memory_mb << 20, Path(folder))


if __name__ == "__main__":
    main()
