"""From a question and its passages to an answer with citations, streamed as text.

`api`, `batch` and `replicas` import it; it imports `retrieval`.
`cite.py` attaches citations; add an answer mode in `answer.py`.
"""
