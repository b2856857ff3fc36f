"""The crawler: from seeds to WARC files, politely, within a scope, and resumable after any kill.

Imported by `acquire` and by `headwater crawl`. `run.py` drives a crawl; docs/corpus.md describes it for
users. Add a trap to `urls.py`, an opt-out of a site to `site_rules.py`, of a page to `sources/opt_outs.py`, a
kind of XML with links to `links.py`.
"""
