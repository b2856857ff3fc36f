"""What the training stages read: batches of rows and of pairs, own files, rankings as pairs and prompts.

The stages beside it and the front door import it.
Add a kind of own data in `own_data.py` (formats: `llm/examples/own_data/`), pairs in `preference_pairs.py`.
"""
