"""The commands of `headwater`, one file each, in three rooms; `headwater/cli.py` lists them.

`corpus` makes and explains documents, `models` measures, aligns and serves models,
`runs` plans, starts and inspects runs.
`cli` imports it.
Add a command as a file of one of the rooms and register it in `cli.py`.
"""
