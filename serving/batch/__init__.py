"""Offline inference on a file of prompts, in OpenAI's batch format.

The commands import it; it imports `api` and `answers`.
`requests.py` parses lines, `worker.py` answers them, `run.py` joins the results.
"""
