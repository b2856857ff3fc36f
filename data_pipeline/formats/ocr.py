"""Text of scanned PDF pages, by RapidOCR (https://github.com/RapidAI/RapidOCR) with the models in its wheel.

Each page is rendered and read by a child process with limits on time and memory, on one thread, so that the
text does not depend on the number of workers or cores.
"""

from __future__ import annotations

import functools
from typing import Any

from headwater.cluster.extras import require
from headwater.data_pipeline.formats.pdf_layout import Line, Page
from headwater.data_pipeline.formats.result import Unconvertible
from headwater.data_pipeline.text.child import Child, ChildFailed

SECONDS = 120.0
"""Timeout per page. A full page takes 3 to 6 s of CPU time."""
MEMORY_BYTES = 3 << 30
MAX_SCANS = 1_000
"""Maximum number of scanned pages per document."""
DOTS_PER_POINT, MAX_SIDE = 2.0, 2000
"""Resolution at which a page is rendered (144 dpi), and largest side in pixels: more is not more exact."""


def scanned_pages(content: bytes) -> dict[int, Page]:
    """Lines of the pages that are images without text, by page number from 0. No pages of a file that
    cannot be read. Raises Unconvertible: too_many_scans, ocr_timeout, ocr_failed."""
    numbers = _call(content, None)
    if len(numbers) > MAX_SCANS:
        detail = f"pdf: {len(numbers):,} pages are images, more than {MAX_SCANS:,}"
        raise Unconvertible("too_many_scans", detail)
    return {number: Page([Line(*line) for line in _call(content, number)]) for number in numbers}


def _call(content: bytes, number: int | None) -> Any:
    try:
        return _child()(content, number)
    except ChildFailed as failed:
        place = "pdf" if number is None else f"pdf: page {number + 1}"
        if failed.timeout:
            raise Unconvertible("ocr_timeout", f"{place}: more than {SECONDS:.0f} s") from failed
        raise Unconvertible("ocr_failed", f"{place}: the reader crashed") from failed


@functools.cache
def _child() -> Child:
    require("ocr")  # also where a worker's machine lacks what the driver's has
    return Child(f"{__name__}:answer", SECONDS, (b"", None), MEMORY_BYTES)


def answer(content: bytes, number: int | None) -> list[Any]:
    """The child's side: numbers of the scanned pages, or lines of one of them (text and box in points)."""
    import pypdfium2 as pdfium

    from headwater.data_pipeline.formats.pdf import is_scan

    engine = _engine()
    if not content:  # the first call, which loads the models
        return []
    try:
        document = pdfium.PdfDocument(content)
        if number is None:
            return [number for number in range(len(document)) if is_scan(document, number)]
        page = document[number]
    except pdfium.PdfiumError:
        return []  # told by pdf_text
    width, height = page.get_size()
    scale = min(DOTS_PER_POINT, MAX_SIDE / max(width, height))
    found = engine(page.render(scale=scale).to_numpy(), use_cls=False)
    if found.boxes is None or found.txts is None:
        return []
    lines = []
    for corners, text in zip(found.boxes / scale, found.txts, strict=True):
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        lines.append((text, left, height - bottom, right, height - top))
    return lines


@functools.cache
def _engine() -> Any:
    import cv2
    from rapidocr import RapidOCR

    cv2.setNumThreads(1)
    onnx = "EngineConfig.onnxruntime"
    one = {f"{onnx}.intra_op_num_threads": 1, f"{onnx}.inter_op_num_threads": 1}
    return RapidOCR(params={"Global.log_level": "critical", **one})
