"""Share of texts kept by language, with English rules for all and with each language's own.

    python benchmarks/corpus/languages.py FOLDER [--datatrove] [--most 150]

FOLDER has one folder of texts (`.txt`, `.html`) per language, named by its code. Chinese, Japanese and Thai
need the extra `languages`. With --datatrove, FineWeb-2's filters in datatrove decide on the same texts, and
differences are counted; `hi` needs the package indic-nlp-library for it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from headwater.data_pipeline.clean.score_documents import Measurer
from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.dedup.minhash import MinHashConfig, MinHasher
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.text.words.languages import language_of
from headwater.data_pipeline.verdict import first_hit

RULES = ("gopher_repetition", "fineweb", "gopher_quality")


def read(folder: Path, most: int) -> list[Document]:
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".html", ".txt"))
    step = max(1, len(files) // most)
    documents = []
    for path in files[::step][:most]:
        data = path.read_bytes()
        html = data if path.suffix == ".html" else None
        documents.append(Document(path.stem, "", "", "" if html else data.decode(), html))
    return documents


def fate(config: CleanConfig, measure: Measurer, document: Document) -> tuple[str, str]:
    """Step and reason of a rejection, or two empty strings; and the text is left in the document."""
    found = measure(document)
    document.text, document.html = found.document.text, None
    if found.stop:
        return found.stop[0], found.stop[1].reason
    own = config.of_language(found.document.language) if found.splitter != "spacy en" else config
    for step, scores in found.scores.items():
        if step in own.own_steps() and (hit := first_hit(scores, own.rules(step))):
            return step, hit.reason
    return "", ""


def differences(code: str, texts: list[str]) -> tuple[int, int, int]:
    """Texts compared, decisions that differ from datatrove's, signatures that differ."""
    from datatrove.data import Document as Theirs
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig

    from tests.data_pipeline.decided import decided
    from tests.data_pipeline.filters.test_datatrove_languages import oracles

    language = language_of(code)
    assert language.limits is not None
    wrong = 0
    for step, oracle in oracles(language.limits, language.label).items():
        for text, (reason, _) in zip(texts, decided(step, texts, language=code), strict=True):
            theirs = oracle.filter(Theirs(text=text, id=""))
            wrong += reason != (None if theirs is True else theirs[1])
    hashing = HashConfig(precision=64, hash_fc="xxhash")
    hasher, unequal = MinHasher(MinHashConfig()), 0
    with tempfile.TemporaryDirectory() as scratch:
        oracle = MinhashDedupSignature(scratch, MinhashConfig(hash_config=hashing), language=language.label)
        for text in texts:
            shingles, ours = oracle.get_shingles(text), hasher.signature(text, language.words)
            if ours is None or shingles.size == 0:
                unequal += (ours is None) != (shingles.size == 0)
            else:
                unequal += not np.array_equal(np.concatenate(oracle.get_signature(shingles)), ours)
    return len(texts), wrong, unequal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--datatrove", action="store_true")
    parser.add_argument("--most", type=int, default=150)
    asked = parser.parse_args()
    print(f"{'':4} {'texts':>6} {'before':>7} {'after':>7} {'MB/s':>6}  dropped after (reasons before)")
    for folder in sorted(path for path in asked.folder.iterdir() if path.is_dir()):
        code, shares, reasons = folder.name, [], []
        texts: list[str] = []
        speed = 0.0
        for own in (False, True):
            raw = {"language": {"languages": [code], "per_language": own}, "pii": {"enabled": False}}
            config = CleanConfig.model_validate(raw)
            measure, documents = Measurer(config), read(folder, asked.most)
            for document in documents[:2]:  # loads
                measure(document)
            documents, measure.seconds = read(folder, asked.most), dict.fromkeys(measure.seconds, 0.0)
            fates = [fate(config, measure, document) for document in documents]
            texts = [each.text for each, (step, _) in zip(documents, fates, strict=True) if step != "extract"]
            languages = [each for each in fates if each[0] not in ("extract", "language")]
            seconds = sum(measure.seconds.values()) - measure.seconds["extract"]
            speed = sum(len(text.encode()) for text in texts) / 1e6 / seconds
            shares.append(sum(step == "" for step, _ in languages) / max(1, len(languages)))
            reasons.append(Counter(reason for _, reason in languages if reason).most_common(3))
        dropped = ", ".join(f"{name} {number}" for name, number in reasons[1])
        earlier = ", ".join(f"{name} {number}" for name, number in reasons[0])
        row = f"{code:4} {len(languages):6} {shares[0]:7.1%} {shares[1]:7.1%} {speed:6.2f}"
        print(f"{row}  {dropped} ({earlier})")
        if asked.datatrove and code != "en":
            compared, wrong, unequal = differences(code, [text for text in texts if text.strip()])
            print(f"     {compared} texts: {wrong} decisions, {unequal} signatures unlike datatrove's")


if __name__ == "__main__":
    main()
