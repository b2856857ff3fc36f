"""Tokenizer training, encoding, packing and the on-disk token shards.

`explain`, `llm` and the front door import it.
Add a packing rule in `packing.py`, an encoder in `encoder.py`; `chat_template.py` has the special tokens.
"""
