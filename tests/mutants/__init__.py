"""Small mistakes by room; `python -m tests.mutants` puts each into a copy of the source."""

from __future__ import annotations

from tests.mutants import cluster, data_pipeline, inference, llm, rl, serving

MUTANTS = [
    *cluster.MUTANTS,
    *data_pipeline.MUTANTS,
    *inference.MUTANTS,
    *llm.MUTANTS,
    *rl.MUTANTS,
    *serving.MUTANTS,
]
