"""The Ray session, the stage contract, actor pools, progress, logs and run records.

All rooms may import it; it imports `cluster.storage`.
New stages subclass `stage.Stage`; batch work uses `parallel.py` and `pool.py`.
"""
