"""Rows or layers shared by several workers: sequence parallelism (Ulysses) and tensor parallelism (AutoTP).

`training`, `stages` and `planning` import it.
Add a way of sharing as a file; its checks go through `sharing.check`.
"""
