"""The endpoint: OpenAI-compatible chat with retrieval and citations, on Ray Serve.

The commands and the pipeline import it; it imports `llm`, `data_pipeline` and `cluster`.
Routes are in `api/`, answer modes in `answers/`, retrievers in `retrieval/`, the making of grounded tasks in
`grounded.py`.
"""
