"""What the console shows of a store: runs, the corpus, lineage, and what system prompts change. Read-only.

Pure functions from a store to JSON, imported by `api`. A new view is a file here, a handler in
`api/extensions/console_routes.py` and a module in `console/`.
"""
