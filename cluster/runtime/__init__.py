"""The Ray session, the stage contract, actor pools, progress, logs and run records.

All rooms may import it; it imports `cluster.storage`.
A new stage subclasses `stage.Stage`; batch work goes through `parallel.py` and `pool.py`.
"""
