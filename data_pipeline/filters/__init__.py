"""Filters: each computes scores of one text; rules on the scores keep it or reject it with a reason.

Those with learnt limits are in `classifiers/`. `clean` imports it; it imports `text` and `dedup`.
To add a filter, copy `fineweb.py` and add its settings to `CleanConfig` in `clean/steps.py`.
"""
