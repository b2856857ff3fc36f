"""Checkpoints: training state cut up by elements, when a checkpoint counts, weight averaging.

`training.loop`, `training.engine` and `training.health` import it.
`elements.py` is the on-disk format; `manager.py` decides what is kept and when it counts.
"""
