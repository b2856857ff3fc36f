"""What training relies on in DeepSpeed beyond its documentation, each with what breaks without it.

The rest of `training` imports it; nothing else does, and it imports nothing of `training`.
Add a function that reads DeepSpeed's attributes in `deepspeed_internals.py`, marked with `relies_on`; one
that changes how an engine is built in `deepspeed_starts.py`.
"""
