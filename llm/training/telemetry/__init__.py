"""What a run tells of itself: a record per step and where it is sent, goodput, traces of steps.

`training`, the views of the console and the front door import it.
Add a metric or a tracker in `records.py`, a kind of lost time in `goodput.py`.
"""
