"""The commands of `headwater`, one file each; `headwater/cli.py` lists them.

`cli` imports it.
Add a command as a file here and register it in `cli.py`.
"""
