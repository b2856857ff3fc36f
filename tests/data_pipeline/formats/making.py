"""Small PDF, DOCX and EPUB files, written byte by byte."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pypdfium2

Placed = tuple[float, float, float, str]
"""x, y (points from the lower left), size and text of a line."""
WIDTH = 0.5
"""Mean width of a character of Helvetica, in its size."""


def pdf(
    pages: Iterable[Sequence[Placed]], *, title: str = "", extra: bytes = b"", catalog: bytes = b""
) -> bytes:
    """A PDF of A4 pages in Helvetica. `extra` goes into each page's content."""
    contents = [
        b"".join(
            b"BT /F1 %g Tf %g %g Td (%s) Tj ET\n"
            % (
                size,
                x,
                y,
                text.encode("cp1252").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)"),
            )
            for x, y, size, text in page
        )
        + extra
        for page in pages
    ]
    first = 4
    kids = b" ".join(b"%d 0 R" % (first + 2 * n) for n in range(len(contents)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R %s >>" % catalog,
        b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(contents), kids),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, content in enumerate(contents):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % (first + 2 * number + 1)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    objects.append(b"<< /Title (%s) >>" % title.encode())
    return pdf_of_objects(objects)


def pdf_of_objects(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """A file of these objects: the first is the catalog, the last the information dictionary."""
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer << /Size %d /Root 1 0 R /Info %d 0 R %s >>\n" % (len(objects) + 1, len(objects), trailer)
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


def scan_of(content: bytes, worn: Callable[[Any], Any] = lambda image: image) -> bytes:
    """The file's pages as grey images at 150 dpi, without text. `worn` changes an image ([height, width] of
    bytes)."""
    kids, objects = [], []
    for number, page in enumerate(pypdfium2.PdfDocument(content)):
        drawing = page.render(scale=150 / 72, grayscale=True).to_numpy()
        image = worn(drawing.reshape(drawing.shape[:2]))
        height, width = image.shape
        data = zlib.compress(image.tobytes())
        box = b"%g %g" % page.get_size()
        drawn = b"%g 0 0 %g 0 0 cm /I Do" % page.get_size()
        first = 3 + 3 * number
        kids.append(b"%d 0 R" % first)
        objects += [
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %s] /Contents %d 0 R "
            b"/Resources << /XObject << /I %d 0 R >> >> >>" % (box, first + 1, first + 2),
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn),
            b"<< /Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /DeviceGray "
            b"/BitsPerComponent 8 /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream"
            % (width, height, len(data), data),
        ]
    tree = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), b" ".join(kids))
    return pdf_of_objects([b"<< /Type /Catalog /Pages 2 0 R >>", tree, *objects, b"<< >>"])


def zipped(members: dict[str, str | bytes], stored: Sequence[str] = ()) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            kind = zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return buffer.getvalue()


W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"


def docx(body: str, *, head: str = "", **others: str) -> bytes:
    """A document whose body is this WordprocessingML, with the prefix `w`. `head` goes before the root
    element."""
    main = f'{head}<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>'
    relations = f'<Relationships><Relationship Type="{RELATION}" Target="word/document.xml"/></Relationships>'
    core = '<c xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The title</dc:title></c>'
    named = {f"word/{name}.xml": content for name, content in others.items()}
    return zipped({"_rels/.rels": relations, "word/document.xml": main, "docProps/core.xml": core, **named})


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def epub(chapters: Sequence[str], **others: str) -> bytes:
    """A book of XHTML bodies. Names of `others` are paths below META-INF."""
    items = "".join(
        f'<item id="c{n}" href="text/c%20{n}.xhtml" media-type="application/xhtml+xml"/>'
        for n in range(len(chapters))
    )
    order = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    book = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<metadata><dc:title>A book</dc:title></metadata><manifest>{items}"
        '<item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/></manifest>'
        f'<spine><itemref idref="nav"/>{order}</spine></package>'
    )
    container = '<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    members: dict[str, str | bytes] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": container,
        "OEBPS/book.opf": book,
        "OEBPS/nav.xhtml": "<html><body><nav>Contents of the book</nav></body></html>",
    }
    members |= {f"META-INF/{name}.xml": content for name, content in others.items()}
    for number, body in enumerate(chapters):
        members[f"OEBPS/text/c {number}.xhtml"] = (
            f"<html><head><title>x</title></head><body>{body}</body></html>"
        )
    return zipped(members, stored=["mimetype"])
