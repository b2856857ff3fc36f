"""Checks before a run: this machine, the store, and every node of a cluster.

The commands import it.
Add a check of the machine or store in `checks.py`, of the nodes in `nodes.py`.
"""
