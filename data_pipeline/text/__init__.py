"""Text primitives: charset, HTML extraction, normalisation, words, hashes, compiled counting loops.

`dedup`, `filters`, `sources` and `clean` import it; it imports only `verdict` and `documents`.
Add extraction engines in `main_text/page.py` and normalisation rules in `normalise.py`.
"""
