"""Filters whose limits are learnt: quality and toxicity, the linear model behind them, its training.

`clean`, `quality` and its command import it; it imports `text`, `filter.py` and `lists.py`.
To add a classifier, copy `quality_classifier.py`.
"""
