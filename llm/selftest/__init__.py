"""`headwater selftest`: does a machine train, resume, generate and measure up to the plan?

The command imports it.
Add a check of training in `training.py`, of generation in `generation.py`, of the plan in `planned.py`,
and name it in `suite.py`.
"""
