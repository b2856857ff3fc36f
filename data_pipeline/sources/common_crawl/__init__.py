"""Common Crawl by its index: select pages, plan byte ranges, fetch and read them.

selection.py    the driver: index → `ranges/*.parquet`, one file per unit of work
index.py        which pages of an index file are wanted
ranges.py       byte ranges: neighbours are merged, units are bounded
access.py       reads byte ranges below a root: HTTP(S), S3 or a folder
reader.py       documents of a unit
"""
