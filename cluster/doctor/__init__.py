"""Checks before a run: this machine, the store, and every node of a cluster.

The commands import it.
Add checks of the machine or the store in `checks.py`, checks of the nodes in `nodes.py`.
"""
