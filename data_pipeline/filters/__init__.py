"""Filters: each measures one text and returns None (keep) or a Rejection with reason, score and threshold.

`clean` imports it; it imports `text` and `dedup`.
Copy `fineweb.py` for a new filter, and list it in `clean/steps.py`.
"""
