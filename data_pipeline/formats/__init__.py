"""Documents in formats other than HTML: bytes → title and plain text.

`convert.py` recognises a format and converts it, in a child process. Each format is one file: `pdf.py`
(with `pdf_layout.py` and `pdf_lines.py`), `docx.py`, `epub.py`, `mail.py`, `wikitext.py`.
"""
