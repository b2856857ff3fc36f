"""The stage `clean`: score each document, select from the scores, write kept and rejected ones.

`explain` and the front door import it; it imports `filters`, `dedup`, `text` and `acquire`.
Add a cleaning step in `steps.py` (settings, order) and `score_documents.py` (what it measures).
"""
