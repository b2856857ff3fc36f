"""How well main text is extracted, the pages for that, and the training of the model that extracts.

The tests of `data_pipeline/text/main_text` import it.
Add a set of pages in `pages.py`, an extractor to compare with in `__main__.py`, a score in `scores.py`.
"""
