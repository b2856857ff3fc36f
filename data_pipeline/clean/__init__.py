"""The stage `clean`: scores documents, selects from the scores, writes kept and rejected documents.

`explain` and the commands import it; it imports `filters`, `dedup`, `text` and `acquire`.
Add a filter's settings to `CleanConfig` in `steps.py`, which also gives the order.
"""
