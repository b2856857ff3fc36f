"""Training examples from text: chat template masks, conversations, preferences, encoded arrays.

`training`, `rl`, `stages` and `serving` may import it.
Add a conversation format in `conversations.py`, a preference source in `preferences.py`.
"""
