"""Deduplication: exact duplicates, near duplicates by MinHash, repeated substrings.

`filters` and `clean` import it; it imports `text`.
Add a method as a file with its settings, and apply it in `clean/select_documents.py`.
"""
