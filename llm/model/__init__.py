"""The transformer: shape, initialisation, LoRA adapters, CPU kernels; as files: `files/`.

Every room of `llm` but `hardware` may import it.
Add a dimension in `shape.py`, an initialisation in `build.py`, an export format in `files/export.py`.
"""
