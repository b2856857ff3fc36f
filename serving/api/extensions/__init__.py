"""Routes that OpenAI's API does not have: documents, rankings, management of keys, the console.

`ingress.py` imports it.
Add a route as a file here, and list it in `ROUTES` of `ingress.py`.
"""
