"""Text of PDF files: order of columns, words divided at line ends, headers and footers, and what is
refused."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from pathlib import Path

import pytest

from headwater.data_pipeline.formats.pdf import pdf_text
from headwater.data_pipeline.formats.result import Unconvertible
from headwater.data_pipeline.text.charset import decode_html
from headwater.data_pipeline.text.main_text import page
from tests.data_pipeline.corpora import article
from tests.data_pipeline.formats.making import WIDTH, Placed, pdf, pdf_of_objects
from tests.data_pipeline.reading import read_all

LIMIT = 10_000_000
SIZE, PITCH = 10.0, 12.0


def f1(found: str, expected: str) -> float:
    """F1 over bags of words."""
    a, b = (Counter(re.findall(r"\w+", text.lower())) for text in (found, expected))
    return 2 * (a & b).total() / max(1, a.total() + b.total())


def wrapped(text: str, width: float, hyphenate: bool = True) -> list[str]:
    """Lines of about this many points. Long words are divided where a line is full."""
    room, lines, line = int(width / (SIZE * WIDTH)), [], ""
    for word in text.split():
        if len(line) + len(word) + 1 > room:
            left = room - len(line) - 2
            if hyphenate and 3 <= left <= len(word) - 3:
                line, word = f"{line} {word[:left]}-", word[left:]
            lines.append(line.strip())
            line = ""
        line += f" {word}"
    return [*lines, line.strip()]


def column(text: str, left: float, top: float, width: float) -> list[Placed]:
    return [(left, top - PITCH * n, SIZE, line) for n, line in enumerate(wrapped(text, width))]


def refused(content: bytes) -> str:
    with pytest.raises(Unconvertible) as error:
        pdf_text(content, LIMIT)
    return error.value.reason


def test_columns_are_read_one_after_the_other_below_a_title_over_both() -> None:
    left, right, below = article(1, 8), article(2, 8), article(3, 4)
    pages = [
        [
            (80.0, 780.0, 18.0, "A title that goes over both of the columns of it"),
            *sorted([*column(left, 60, 740, 225), *column(right, 310, 740, 225)], key=lambda line: -line[1]),
            *column(below, 60, 400, 475),
        ]
    ]
    text = pdf_text(pdf(pages), LIMIT).text
    title, _, rest = text.partition("\n\n")
    assert title == "A title that goes over both of the columns of it"
    assert rest.split() == f"{left} {right} {below}".split()


def test_cells_of_a_table_are_read_row_by_row() -> None:
    rows = [
        ("river", "12", "ten"),
        ("forest", "7", "two"),
        ("market", "31", "six"),
        ("garden", "4", "one"),
    ] * 3
    placed = [
        (x, 700 - 14.0 * n, SIZE, cell)
        for x, place in ((60, 0), (220, 1), (400, 2))
        for n, row in enumerate(rows)
        for cell in [row[place]]
    ]
    words = pdf_text(pdf([placed]), LIMIT).text.split()
    assert words[:6] == ["river", "12", "ten", "forest", "7", "two"]


def test_a_divided_word_is_joined_and_a_compound_keeps_its_hyphen() -> None:
    lines = [
        "The old harb-",
        "our has a well-",
        "known lighthouse and a well-known inn, near Saint-",
        "Denis and its harbour.",
    ]
    text = pdf_text(pdf([[(60.0, 700 - PITCH * n, SIZE, line) for n, line in enumerate(lines)]]), LIMIT).text
    assert " ".join(text.split()) == (
        "The old harbour has a well-known lighthouse and a well-known inn, near Saint-Denis and its harbour."
    )


def test_running_headers_footers_and_page_numbers_go_and_headings_stay() -> None:
    pages = []
    for number in range(8):
        chapter = "Chapter 1: The river" if number < 4 else "Chapter 2: The sea"
        header = f"{number + 11}   A History of Water" if number % 2 else f"{chapter}   {number + 11}"
        pages.append(
            [
                (60.0, 800.0, 9.0, header),
                (60.0, 760.0, 14.0, f"Heading of part {chr(65 + number)}"),
                *column(article(number), 60, 730, 475),
                (290.0, 40.0, 9.0, f"- {number + 11} -"),
                (60.0, 28.0, 7.0, "Printed by the water company"),
            ]
        )
    text = pdf_text(pdf(pages), LIMIT).text
    assert "History of Water" not in text and "Chapter" not in text and "Printed" not in text
    assert not any(str(number + 11) in text for number in range(8))
    assert [line for line in text.split("\n") if line.startswith("Heading")] == [
        f"Heading of part {c}" for c in "ABCDEFGH"
    ]
    assert f1(text, "\n".join(article(n) for n in range(8))) > 0.95


def test_a_paragraph_goes_on_over_the_end_of_a_page() -> None:
    first = [
        (60.0, 100.0 - PITCH * n, SIZE, line)
        for n, line in enumerate(["It was a quiet morning, and the", "people of the village were"])
    ]
    second = [(60.0, 780.0, SIZE, "already at the market."), (60.0, 730.0, SIZE, "Another paragraph.")]
    assert pdf_text(pdf([first, second]), LIMIT).text.split("\n\n") == [
        "It was a quiet morning, and the people of the village were already at the market.",
        "Another paragraph.",
    ]


def test_the_title_is_the_stated_one_unless_a_program_made_it_up() -> None:
    placed = [[(60.0, 700.0, SIZE, "Words of a text.")]]
    assert pdf_text(pdf(placed, title="On rivers"), LIMIT).title == "On rivers"
    assert pdf_text(pdf(placed, title="Microsoft Word - draft3.doc"), LIMIT).title == ""


IMAGE = b"q 500 0 0 700 40 60 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x80 EI Q\n"


def test_a_scan_is_refused_as_one_and_a_page_of_it_in_a_text_is_not() -> None:
    scan = pdf([[], [], []], extra=IMAGE)
    assert refused(scan) == "no_text_layer"
    assert refused(pdf([[]])) == "no_text"
    text = [(60.0, 700.0, SIZE, "A page of text beside an image.")]
    assert pdf_text(pdf([text, text, []], extra=IMAGE), LIMIT).text


def test_an_encrypted_a_cut_and_a_broken_file_are_refused_by_name() -> None:
    good = pdf([[(60.0, 700.0, SIZE, "Words of a text.")]])
    protection = b"/Encrypt << /Filter /Standard /V 1 /R 2 /O (%s) /U (%s) /P -4 >> /ID [(a) (b)]" % (
        b"o" * 32,
        b"u" * 32,
    )
    locked = good.replace(b"trailer << ", b"trailer << " + protection)
    assert refused(locked) == "encrypted"
    assert refused(good[: len(good) // 2]) == "truncated_pdf"
    assert refused(b"%PDF-1.4\nnothing\nstartxref\n0\n%%EOF\n") == "broken_pdf"


def test_pages_that_contain_one_another_end() -> None:
    loop = pdf_of_objects(
        [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Count 9 /Kids [2 0 R 2 0 R] >>", b"<< >>"]
    )
    assert refused(loop) in ("broken_pdf", "no_text")


def test_more_text_than_allowed_is_refused() -> None:
    with pytest.raises(Unconvertible, match="too_large"):
        pdf_text(pdf([column(article(1), 60, 700, 475)]), 100)


def test_a_stream_that_unpacks_without_end_costs_one_file(tmp_path: Path) -> None:
    bomb = zlib.compress(zlib.compress(b" " * 100_000_000))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R >>",
        b"<< /Length %d /Filter [/FlateDecode /FlateDecode] >>\nstream\n%s\nendstream" % (len(bomb), bomb),
        b"<< >>",
    ]
    (tmp_path / "bomb.pdf").write_bytes(pdf_of_objects(objects))
    (tmp_path / "good.pdf").write_bytes(pdf([[(60.0, 700.0, SIZE, "Words of a text.")]]))
    _, unread, error = read_all("folder", str(tmp_path / "bomb.pdf"))
    assert error is None and len(unread) == 1
    documents, _, _ = read_all("folder", str(tmp_path / "good.pdf"))
    assert [document.text for document in documents] == ["Words of a text."]


REAL = Path("/usr/share/doc/shared-mime-info")


@pytest.mark.skipif(
    not (REAL / "shared-mime-info-spec.pdf").exists(), reason="needs Debian's shared-mime-info"
)
def test_a_real_manual_has_the_words_of_its_html_edition() -> None:
    pages = sorted((REAL / "shared-mime-info-spec.html").glob("*.html"))
    trees = [page.HTMLTree.parse(decode_html(path.read_bytes())) for path in pages]
    html = "\n".join(page.fast_text(tree, main_content=False) for tree in trees)
    found = pdf_text((REAL / "shared-mime-info-spec.pdf").read_bytes(), LIMIT)
    assert f1(found.text, html) >= 0.93
