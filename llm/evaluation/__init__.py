"""The report card: its data, its Markdown and JSON, its plots.

`stages` and `planning` import it.
Add a figure in `measures.py` and its row in `stages/evaluations/metric_rows.py`, a picture in `plots.py`;
measures of cited answers are in `grounded.py`.
"""
