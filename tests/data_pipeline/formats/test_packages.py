"""DOCX and EPUB: what is text, in which order, and what is refused."""

from __future__ import annotations

import pytest

from headwater.data_pipeline.formats import package
from headwater.data_pipeline.formats.docx import docx_text
from headwater.data_pipeline.formats.epub import epub_text
from headwater.data_pipeline.formats.result import Unconvertible
from tests.data_pipeline.formats.making import docx, epub, paragraph, zipped

LIMIT = 1_000_000


def test_a_document_has_its_paragraphs_lists_tables_and_notes_in_order() -> None:
    cells = "".join(f"<w:tc>{paragraph(text)}</w:tc>" for text in ("one", "two"))
    body = (
        paragraph("First &amp; foremost.")
        + "<w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>an item</w:t><w:tab/><w:t>of it</w:t></w:r></w:p>"
        + f"<w:tbl><w:tr>{cells}</w:tr><w:tr>{cells}</w:tr></w:tbl>"
        + "<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
        + "<w:ins><w:r><w:t>added</w:t></w:r></w:ins>"
        + "<w:r><w:instrText>PAGE</w:instrText></w:r></w:p>"
    )
    notes = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    footnotes = f'<w:footnotes {notes}><w:footnote w:type="separator">{paragraph("---")}</w:footnote>'
    footnotes += f"<w:footnote>{paragraph('A note.')}</w:footnote></w:footnotes>"
    found = docx_text(docx(body, footnotes=footnotes, header1=paragraph("Header")), LIMIT)
    assert found.title == "The title"
    assert found.text.split("\n\n") == [
        "First & foremost.",
        "- an item of it",
        "one | two\none | two",
        "added",
        "A note.",
    ]


def test_a_book_has_its_chapters_in_the_order_of_the_spine_without_navigation() -> None:
    found = epub_text(epub(["<h1>One</h1><p>It began.</p>", "<h1>Two</h1><p>It ended.</p>"]), LIMIT)
    assert found.title == "A book"
    assert [line for line in found.text.split("\n") if line] == ["One", "It began.", "Two", "It ended."]


ENTITIES = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (docx(paragraph("&b;"), head=ENTITIES), "forbidden_entities"),
        (docx(""), "no_text"),
        (docx(paragraph("x") * 10)[:-30], "broken_zip"),
        (docx(f"<w:p>{'<w:r>' * 300}"), "broken_xml"),
        (docx(paragraph("a" * 5_000_000)), "too_large"),
        (docx("<w:sdt>" * 220 + paragraph("x") + "</w:sdt>" * 220), "too_deep"),
        (zipped({"_rels/.rels": "<r/>"}), "not_docx"),
        (zipped({"a": "b"}), "missing_member"),
        (b"\xd0\xcf\x11\xe0 an encrypted file", "encrypted"),
    ],
    ids=["entities", "empty", "cut", "open", "bomb", "deep", "other", "any zip", "encrypted"],
)
def test_a_document_that_cannot_be_read_is_refused_by_name(content: bytes, reason: str) -> None:
    with pytest.raises(Unconvertible) as error:
        docx_text(content, LIMIT)
    assert error.value.reason == reason


PROTECTED = '<e><EncryptedData xmlns="x"><EncryptionMethod Algorithm="aes"/></EncryptedData></e>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (epub(["<p>x</p>"], encryption=PROTECTED), "encrypted"),
        (epub([]), "no_text"),
        (epub(["<div>" * 5000 + "x"]), "html_too_deep"),
        (epub(["a" * 5_000_000]), "too_large"),
        (zipped({"META-INF/container.xml": "<c/>"}), "not_epub"),
    ],
    ids=["protected", "empty", "deep", "bomb", "other"],
)
def test_a_book_that_cannot_be_read_is_refused_by_name(content: bytes, reason: str) -> None:
    with pytest.raises(Unconvertible) as error:
        epub_text(content, LIMIT)
    assert error.value.reason == reason


def test_a_book_whose_fonts_alone_are_disguised_is_read() -> None:
    fonts = PROTECTED.replace("aes", "http://www.idpf.org/2008/embedding")
    assert epub_text(epub(["<p>Words.</p>"], encryption=fonts), LIMIT).text == "Words."


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "MAX_MEMBERS", 2)
    with pytest.raises(Unconvertible, match="too_many_members"):
        docx_text(docx(paragraph("x")), LIMIT)
