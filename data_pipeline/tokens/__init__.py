"""Tokenizer training, encoding, packing and on-disk token shards.

`explain`, `llm` and the commands import it.
Add packing rules in `packing.py` and encoders in `encoder.py`; `chat_template.py` has the special tokens.
"""
