"""Offline answers to any number of prompts, in OpenAI's batch file format.

The commands import it; it imports `api` and `answers`.
`requests.py` reads a line, `worker.py` answers it, `run.py` joins the results.
"""
