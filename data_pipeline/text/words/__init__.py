"""Words of texts: splitters by language, word ids and compiled counts over them, words as hashes.

`dedup`, `filters` and `clean` import it.
Add a language in `languages.tsv` (`docs/generate_languages.py` writes it), a word splitter in `segmented.py`.
"""
