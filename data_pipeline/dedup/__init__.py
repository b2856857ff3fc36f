"""Deduplication: exact copies, near copies by MinHash, repeated substrings.

`filters` and `clean` import it; it imports `text`.
Add a method as a file with its settings; `clean/select_documents.py` applies it.
"""
