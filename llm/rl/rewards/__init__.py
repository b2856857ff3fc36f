"""What an answer is worth: verifiers, the judge that asks them, a sandbox for code, tasks with right answers.

`rl`, `stages` and the front door import it, `benchmarks` its sandbox; it imports nothing of `rl`.
Add a verifier in `verifiers.py`, a task in `made_tasks.py`; or either in a file of your own
(`cluster/runtime/plugins.py`).
"""
