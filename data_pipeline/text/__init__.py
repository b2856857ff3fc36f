"""Text primitives: charset, normalisation; `main_text/` of HTML pages; `words/`, their languages and counts.

`dedup`, `filters`, `sources` and `clean` import it; it imports only `verdict` and `documents`.
Add extraction engines in `main_text/page.py` and normalisation rules in `normalise.py`.
"""
