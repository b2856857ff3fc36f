"""HTTP: routes, OpenAI types, API keys, limits, metrics and the client.

`app`, `batch` and the commands import it.
Add a route to the list in `ingress.py` (each has a file of its own), a metric in `metrics.py`.
"""
