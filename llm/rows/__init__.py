"""Which packed rows a training step reads: shuffled order, corpus mixtures, documents of a row.

`training`, `stages` and `planning` may import it.
Add a sampling rule as a subclass of `order.BatchOrder`.
"""
