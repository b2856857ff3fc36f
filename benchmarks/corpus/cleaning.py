"""The corpus engine compared with datatrove 0.10.1, in MB of UTF-8 per CPU second.

    python -m benchmarks.corpus.cleaning FILE.jsonl… [--text-column text] [--limit MB]

Both run in this process. Each figure is the median of three passes over the same documents, in CPU time,
after a warm-up pass of both (compiled code, spaCy's and our caches). "cold" is our first pass with an empty
vocabulary. Decisions and signatures are also compared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.filters.c4_filters import C4QualityFilter
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.utils.hashing import HashConfig

from headwater.data_pipeline.dedup.minhash import MinHashConfig, MinHasher
from headwater.data_pipeline.filters import c4, fineweb, gopher
from headwater.data_pipeline.text.words import document_text
from headwater.data_pipeline.text.words.document_text import Text
from headwater.data_pipeline.verdict import Rejection, first_hit

PASSES = 3


def their_chain() -> Callable[[str], str | None]:
    filters = (
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    )

    def judge(content: str) -> str | None:
        document = Document(text=content, id="")
        for step in filters:
            result = step.filter(document)
            if result is not True:
                return result[1]
        return None

    return judge


def our_chain() -> Callable[[str], str | None]:
    repetition, quality = gopher.RepetitionConfig(), gopher.QualityConfig()
    c4_config, fineweb_config = c4.C4Config(), fineweb.FineWebConfig()
    repetition_rules, quality_rules = repetition.rules(), quality.rules()
    c4_rules, fineweb_rules = c4_config.rules(), fineweb_config.rules()

    def first(content: str) -> Rejection | None:
        words = Text(content)
        rejection = first_hit(gopher.measure_repetition(words, repetition), repetition_rules)
        rejection = rejection or first_hit(gopher.measure_quality(words, quality), quality_rules)
        if rejection:
            return rejection
        measured = c4.measure(content, c4_config)
        if isinstance(measured, Rejection):
            return measured
        rewritten, scores = measured
        words = words if rewritten == content else Text(rewritten)
        return first_hit(scores, c4_rules) or first_hit(fineweb.measure(words, fineweb_config), fineweb_rules)

    def judge(content: str) -> str | None:
        rejection = first(content)
        return rejection.reason if rejection else None

    return judge


def their_signatures(folder: str) -> Callable[[str], object]:
    step = MinhashDedupSignature(folder, MinhashConfig(hash_config=HashConfig(precision=64)))

    def sign(content: str) -> object:
        shingles = step.get_shingles(content)
        return list(itertools.chain(*step.get_signature(shingles))) if shingles.size else None

    return sign


def our_signatures() -> Callable[[str], object]:
    hasher = MinHasher(MinHashConfig())

    def sign(content: str) -> object:
        signature = hasher.signature(content)
        return None if signature is None else signature.tolist()

    return sign


def seconds(function: Callable[[str], object], texts: list[str]) -> tuple[float, list[object]]:
    started = time.process_time()
    results = [function(content) for content in texts]
    return time.process_time() - started, results


def compare(
    name: str, theirs: Callable[[str], object], ours: Callable[[str], object], texts: list[str]
) -> None:
    megabytes = sum(len(content.encode()) for content in texts) / 1e6
    seconds(ours, texts)  # compiles functions or reads numba's cache
    document_text._current.clear()
    document_text.vocabulary()
    cold, ours_found = seconds(ours, texts)
    _, theirs_found = seconds(theirs, texts)
    equal = sum(a == b for a, b in zip(theirs_found, ours_found, strict=True))
    spent: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(PASSES):
        spent["theirs"].append(seconds(theirs, texts)[0])
        spent["ours"].append(seconds(ours, texts)[0])
    peer, we = (megabytes / statistics.median(spent[side]) for side in ("theirs", "ours"))
    print(
        f"{name:<22} datatrove {peer:6.2f} MB/s  headwater {we:6.2f} MB/s (cold {megabytes / cold:5.2f})  "
        f"{we / peer:6.1f}x  equal {equal} of {len(texts)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--limit", type=float, default=5.0, help="MB of text that are read")
    options = parser.parse_args()
    texts, size = [], 0
    for file in options.files:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                content = json.loads(line)[options.text_column]
                if content.strip() and size < options.limit * 1e6:
                    texts.append(content)
                    size += len(content.encode())
    print(f"{len(texts)} documents, {size / 1e6:.2f} MB")
    compare("four filters", their_chain(), our_chain(), texts)
    with tempfile.TemporaryDirectory() as folder:
        compare("MinHash signatures", their_signatures(folder), our_signatures(), texts)


if __name__ == "__main__":
    main()
