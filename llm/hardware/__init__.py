"""What the machine can do: GPU tables, number formats, measured peak FLOP/s.

All rooms of `llm` may import it; it imports none of them.
Add a GPU in `hardware.yaml`, a number format in `precision.py`.
"""
