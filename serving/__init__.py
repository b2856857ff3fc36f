"""The endpoint: OpenAI-compatible chat with retrieval and citations, on Ray Serve.

The front door imports it; it imports `llm`, `data_pipeline` and `cluster`.
A route goes to `api/`, a citation rule to `answers/`, a retriever to `retrieval/`.
"""
