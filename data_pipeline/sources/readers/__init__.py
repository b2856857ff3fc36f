"""Readers of files: one per kind of source, each a stream of documents and unreadable items.

`sources`, `common_crawl` and `crawl` import it.
Add a kind as a file here, its settings to `sources/spec.py`, and the reader to `read_source`.
"""
