"""From raw web data to clean documents and packed token rows, on Ray Data.

`llm`, `serving` and the commands may import it; it imports `cluster`.
Add sources in `sources/`, filters in `filters/` and `clean/steps.py`, packing rules in `tokens/packing.py`.
"""
