"""Grounded answers: passages, the prompt that numbers them, sentences, and which passage supports a sentence.

`rl`, `stages`, `evaluation` and `serving` may import it. Pure functions over text, without model or network.
Add a citation rule in `cite.py`, a check of a sentence against its source in `agreement.py`.
"""
