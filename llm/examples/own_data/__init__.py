"""Conversations, preference pairs and prompts from files that a user brings.

`stages` and the commands may import it.
Add a format in `formats.py`: its name in `source.Format`, its columns in `guess`, its conversion in `TALKS`.
"""
