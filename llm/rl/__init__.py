"""Reinforcement learning: the learner's batches, advantages, policy losses; `rewards/` and `rollouts/`.

`stages` imports it, and `benchmarks` its sandbox.
Add a reward in `rewards/verifiers.py`, an advantage estimator in `advantages.py`, a loss in `losses.py`; or
a reward or a task in a file of your own (`cluster/runtime/plugins.py`).
"""
