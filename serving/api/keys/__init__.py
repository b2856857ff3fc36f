"""API keys: who they are, what they may do and have used.

`backend`, the routes and `headwater keys` import it; of `api` it imports `limits` alone.
Add a role to `auth.py`, a limit of a key to `Limits` in `auth.py` and to `quotas.py`.
"""
