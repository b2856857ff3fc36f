"""The stage `clean`: scores documents, selects from the scores, writes kept and rejected documents.

`explain` and the commands import it; it imports `filters`, `dedup`, `text` and `acquire`.
Add a cleaning step in `steps.py` (settings, order) and `score_documents.py` (its scores).
"""
