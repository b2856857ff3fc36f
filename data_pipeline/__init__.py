"""Raw web data to clean documents to packed token rows, on Ray Data.

`llm`, `serving` and the front door may import it; it imports `cluster`.
A source goes to `sources/`, a filter to `filters/` and `clean/steps.py`, packing to `tokens/packing.py`.
"""
