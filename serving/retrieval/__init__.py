"""Retrieval: split documents into passages, embed, index, search.

`answers` and the pipeline import it.
Add an embedder in `embed.py`, a ranking rule in `search.py`.
"""
