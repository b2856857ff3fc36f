"""The routes of OpenAI's API (and vLLM's `/tokenize`), one file each, and the shapes of their answers.

`ingress` and `batch` import it.
Add a parameter to `api/chat_types.py` and to the request of its route, a field of an answer to
`chat_answers.py`.
"""
