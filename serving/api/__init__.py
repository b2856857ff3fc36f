"""HTTP: limits, metrics and the client. Routes: `openai/` and `extensions/`; API keys and quotas: `keys/`.

`app`, `batch` and the commands import it.
Add a route to the list in `ingress.py` (each has a file of its own), a metric in `metrics.py`.
"""
