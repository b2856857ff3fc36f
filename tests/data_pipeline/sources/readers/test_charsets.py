"""Charset labels of pages: those of the encoding standard, and no others."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.acquire import AcquireConfig, ReadWorker, _units
from headwater.data_pipeline.text.charset import decode_declared, decode_html
from tests.data_pipeline.sources.readers.test_sources_files import warc_record


@pytest.mark.parametrize(
    ("charset", "body"),
    [
        ("utf-7", b"+2AA-"),
        ("unicode_escape", b"\\ud800"),
        ("raw_unicode_escape", b"\\ud800"),
        ("rot13", b"uryyb"),
    ],
)
def test_charsets_that_only_python_knows_are_not_used(tmp_path: Path, charset: str, body: bytes) -> None:
    """Some make lone surrogates of a text, which no file of the corpus can hold."""
    path = tmp_path / "a.warc"
    labelled = f"Content-Type: text/plain; charset={charset}"
    html = f"Content-Type: text/html; charset={charset}"
    path.write_bytes(warc_record("u:1", body, labelled) + warc_record("u:2", body, html))
    source = {"kind": "warc", "paths": [str(path)]}
    config = AcquireConfig.model_validate({"sources": [source]})
    (unit,) = _units(config)
    result = ReadWorker(config, Artifact(str(tmp_path / "out")))(unit)
    assert (result["documents"], result["rejected"]) == (1, {"invalid_charset": 1})
    (problem,) = result["problems"]
    assert problem["file"] == str(path) and problem["position"] == "record 1, byte 0 uncompressed"
    assert problem["detail"] == f"the text is not {charset}; u:1"
    assert decode_html(b"\xff<meta charset=" + charset.encode() + b"><p>" + body).endswith(body.decode())


@pytest.mark.parametrize(
    ("label", "content", "expected"),
    [
        ("X-SJIS", "①髙".encode("cp932"), "①髙"),
        ("ks_c_5601-1989", "똠".encode("cp949"), "똠"),
        ("big5-hkscs", "嘅啲".encode("big5hkscs"), "嘅啲"),
        ("csISO58GB231280", "镕".encode("gb18030"), "镕"),
        ("ansi_x3.4-1968", b"\x93a\x94", "“a”"),
        ("x-mac-ukrainian", "Їжак".encode("mac_cyrillic"), "Їжак"),
        ("utf-16", "žluť".encode("utf-16-le"), "žluť"),
        ("utf-16", codecs.BOM_UTF16_BE + "žluť".encode("utf-16-be"), "žluť"),
        ("iso-2022-kr", b"a", None),
        ("idna", b"xn--a", None),
        ("punycode", b"a-", None),
        ("hex", b"61", None),
        ("", b"a", None),
        (None, b"a", None),
    ],
)
def test_labels_are_those_of_the_encoding_standard(
    label: str | None, content: bytes, expected: str | None
) -> None:
    """https://encoding.spec.whatwg.org/#names-and-labels, with browsers' larger encodings."""
    assert decode_declared(content, label) == expected
