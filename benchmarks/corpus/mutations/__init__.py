"""Mutated files of every format, and whether each record is read or told.

`tests/data_pipeline/sources` imports it.
Add a format in `files.py` with its account in `accounts.py`, a kind of damage in `mutating.py`.
"""
