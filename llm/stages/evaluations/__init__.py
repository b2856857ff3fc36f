"""The stages that measure models and train none: evaluate (the report card), benchmarks, probe, bias.

The front door imports it; it imports the training stages beside it.
Add a measure of the report card in `metric_rows.py`, a benchmark in `llm/benchmarks/tasks.py`.
"""
