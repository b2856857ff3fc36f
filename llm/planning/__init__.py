"""Planning a pretraining before it runs: memory, time, cost, expected loss; scaling laws.

The commands and `headwater/pipeline.py` import it.
Add a memory term in `memory.py`, a cost in `budget.py`, a law in `scaling_law.py`.
"""
