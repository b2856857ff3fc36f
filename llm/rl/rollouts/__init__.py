"""How answers are sampled: rollout workers, episodes of several turns, which prompts go out, the journal.

`rl/batches.py` and `stages` import it; it imports `rl/config.py` and `rewards`.
Add a task with an environment as `search.py`; what a rollout holds is `Rollouts` in `worker.py`.
"""
