"""How torch computes the logits of many sequences: slots of keys and values, kept prefixes, mixed adapters.

`base.py`, `batching.py` and the engines import it; it imports `model` only.
Add a shape of model in `decoder.py`.
"""
