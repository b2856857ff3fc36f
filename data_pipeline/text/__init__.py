"""Text primitives: charset, HTML extraction, normalisation, words, hashes, compiled counting loops.

`dedup`, `filters`, `sources` and `clean` import it; it imports `verdict` and `documents` alone.
Add an extraction engine in `page.py`, a normalisation rule in `normalise.py`.
"""
