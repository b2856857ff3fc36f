"""HTTP: routes, OpenAI types, API keys, limits, metrics and the client.

`app`, `batch` and the commands import it.
Add a route in `ingress.py`, a request field in `openai_types.py`, a metric in `metrics.py`.
"""
