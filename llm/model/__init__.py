"""The transformer: shape, initialisation, LoRA adapters, CPU kernels, export to Hugging Face and GGUF.

Every room of `llm` but `hardware` may import it.
Add a dimension in `shape.py`, an initialisation in `build.py`, an export format in `files/export.py`.
"""
