"""Scanned PDF pages read with OCR."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.acquire import Acquire, AcquireConfig
from headwater.data_pipeline.formats import ocr
from tests.data_pipeline.corpora import article
from tests.data_pipeline.formats.making import Placed, pdf, scan_of
from tests.data_pipeline.formats.test_pdf import column, f1
from tests.data_pipeline.reading import read_all, source_of


def page_of(text: str) -> list[Placed]:
    return column(text, 60, 740, 475)


@pytest.mark.soak
def test_a_scan_is_read_with_ocr_and_refused_without(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr", reason="the extra ocr is not installed")
    texts = [article(1, 1), article(2, 1)]
    file = tmp_path / "a.pdf"
    file.write_bytes(scan_of(pdf([page_of(text) for text in texts])))
    (_, (refused,), _) = read_all("folder", str(file))
    assert refused.reason == "no_text_layer"
    ((document,), unread, _) = read_all("folder", str(file), ocr=True)
    assert not unread
    assert f1(document.text, " ".join(texts)) > 0.97
    assert document.text.count("\n\n") <= 3  # lines are joined to paragraphs


@pytest.mark.soak
def test_a_page_that_takes_too_long_refuses_its_file_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rapidocr", reason="the extra ocr is not installed")
    file = tmp_path / "a.pdf"
    file.write_bytes(scan_of(pdf([page_of(article(1, 1))])))
    ocr._child.cache_clear()
    monkeypatch.setattr(ocr, "SECONDS", 0.2)
    try:
        (_, (refused,), _) = read_all("folder", str(file), ocr=True)
    finally:
        ocr._child().close()
        ocr._child.cache_clear()
    assert (refused.reason, refused.detail.partition(";")[0]) == ("ocr_timeout", "pdf: page 1: more than 0 s")


def test_ocr_without_its_packages_is_refused_before_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for source in (
        source_of("folder", paths=["a.pdf"], ocr=True),
        source_of("archive", paths=["a.zip"], ocr=True),
        source_of("warc", paths=["a.warc"], ocr=True, formats=["pdf"]),
    ):
        with pytest.raises(HeadwaterError, match="rapidocr") as error:
            Acquire(AcquireConfig(sources=(source,))).check()
        assert error.value.fix == "pip install 'headwater[ocr]'"
    with pytest.raises(ValidationError, match="add `pdf` to `formats`"):
        source_of("warc", paths=["a.warc"], ocr=True)


def test_a_source_without_ocr_has_the_key_that_it_had() -> None:
    def key(**settings: bool) -> str:
        source = source_of("folder", paths=["a.pdf"], **settings)
        return Acquire(AcquireConfig(sources=(source,))).key({}, {})

    assert key() == key(ocr=False) != key(ocr=True)
    assert "ocr" not in source_of("folder", paths=["a.pdf"]).model_dump()
