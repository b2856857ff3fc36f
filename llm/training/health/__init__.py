"""Failures and their handling: lost workers, preemption, stragglers, hangs, losses that are not finite.

`training.loop` imports it.
`watchdog.py` times out a hanging step; `nan_guard.py` handles a NaN; `failures.py` names who was lost.
"""
