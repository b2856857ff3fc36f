"""The main text of HTML pages: blocks, the learnt model that chooses among them, rules, tables and code kept.

`clean`, `formats`, `quality` and the reader of the live web import it.
Add a feature of blocks in `block_features.py` and train again (`benchmarks/corpus/extraction/training.py`).
"""
