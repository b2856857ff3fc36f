"""Models as files: what a folder may be, weights read by ranges of bytes, export to Hugging Face and GGUF.

Every room of `llm` but `hardware` may import it, and the front door.
Add an export format in `export.py`, a check of what is opened in `source.py`.
"""
