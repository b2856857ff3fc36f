"""Failures and their handling: lost workers, preemption, stragglers, pauses, hangs, losses that are NaN.

`training.loop` imports it.
`watchdog.py` times out a hanging step; `nan_guard.py` handles a NaN; `failures.py` names who was lost.
"""
