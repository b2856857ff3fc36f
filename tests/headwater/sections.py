"""Sections for recipes of tests."""

from __future__ import annotations

from typing import Any

PRETRAINING: dict[str, Any] = {name: {} for name in ("clean", "tokenizer", "tokenize", "pretrain")}
"""From documents to a pretrained model, with all defaults; `acquire` is the test's own."""
CHAIN: dict[str, Any] = PRETRAINING | {name: {} for name in ("sft", "reward", "rl", "evaluate", "index")}
"""Every stage of the quickstart but `acquire`."""
