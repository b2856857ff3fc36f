"""Live web: pages that are fetched for a question, to be cited like passages of the index.

`live.py` reads the pages that a question names or that a search provider (`provider.py`) finds for it. Each
page goes through the crawler's guarded requests, robots.txt and opt-outs (`reader.py`).
"""
