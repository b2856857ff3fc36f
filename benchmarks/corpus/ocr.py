"""OCR of scanned PDF pages against the text layer of the same pages.

    python -m benchmarks.corpus.ocr FILE.pdf … [--pages 5]

Needs the extra `ocr`. Every file's first pages with a text layer are drawn as grey images at 150 dpi: as they
are, and worn (turned by 0.7°, blurred, with noise). Word F1 compares the text read by OCR with that read
from the text layer, through the same rules of layout, over bags of words.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pypdfium2
from PIL import Image, ImageFilter

from benchmarks.corpus.extraction.scores import f1
from headwater.data_pipeline.formats import ocr
from headwater.data_pipeline.formats.convert import convert
from tests.data_pipeline.formats.making import scan_of

LIMIT = 20_000_000


def worn(image: Any) -> Any:
    turned = Image.fromarray(image).rotate(0.7, Image.Resampling.BICUBIC, fillcolor=255)
    blurred = np.asarray(turned.filter(ImageFilter.GaussianBlur(0.8)), np.float32)
    noise = np.random.default_rng(0).normal(-8, 14, blurred.shape)
    return np.clip(blurred + noise, 0, 255).astype(np.uint8)


def first_pages(file: Path, count: int) -> bytes:
    document, part, buffer = pypdfium2.PdfDocument(file), pypdfium2.PdfDocument.new(), io.BytesIO()
    full = [number for number, page in enumerate(document) if page.get_textpage().count_chars() > 500]
    part.import_pages(document, full[:count])
    part.save(buffer)
    return buffer.getvalue()


def child() -> psutil.Process:
    process = ocr._child()._process
    assert process is not None
    return psutil.Process(process.pid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--pages", type=int, default=5)
    given = parser.parse_args()
    ocr._call(b"", None)  # loads the models
    for file in given.files:
        content = first_pages(file, given.pages)
        pages, expected = len(pypdfium2.PdfDocument(content)), convert("pdf", content, LIMIT).text
        for name, change in (("clean", np.asarray), ("worn", worn)):
            before = child().cpu_times()
            text = convert("pdf", scan_of(content, change), LIMIT, ocr=True).text
            used = child().cpu_times()
            seconds = used.user + used.system - before.user - before.system
            memory = child().memory_info().rss >> 20
            print(
                f"{file.name}  {name}  {pages} pages  word F1 {f1(text, expected):.4f}  "
                f"{seconds / pages:.1f} s of CPU time per page  {memory} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
