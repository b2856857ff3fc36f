"""How well main text is extracted, the pages for that, and the training of the model that extracts.

The tests import it.
Add a set of pages in `pages.py`, another extractor to compare with in `__main__.py`.
"""
