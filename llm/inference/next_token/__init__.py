"""How the next token is chosen from logits: settings of sampling, JSON schemas, texts that end in time.

The engines and `batching.py` import it; it imports `base.py`.
Add a setting of sampling to `Sampling` in `base.py` and its effect in `sampling.py`.
"""
