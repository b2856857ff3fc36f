"""Training examples from text: chat template masks, conversations, preferences, encoded arrays.

`inference`, `training`, `rl`, `stages` and `serving` may import it.
Add conversations made from documents in `conversations.py`, a format of own files in `own_data/`, a
preference source in `preferences.py`.
"""
