"""Answer a question from its passages: streamed text with citations.

`api`, `batch` and `replicas` import it; it imports `retrieval`.
The citation rules are in `llm/grounding/`; add an answer mode in `answer.py`.
"""
