"""Answer a question from its passages: streamed text with citations.

`api`, `batch` and `replicas` import it; it imports `retrieval`.
`cite.py` attaches citations; add an answer mode in `answer.py`.
"""
