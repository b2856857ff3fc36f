"""The report card: its data, its Markdown and JSON, its plots.

`stages` and `planning` import it.
Add a figure in `measures.py` and its row in `stages/evaluate.py`, a picture in `plots.py`.
"""
