"""The filters' settings for other languages than English: FineWeb-2's pipeline in this project's names.

From fineweb-2-pipeline.py (https://github.com/huggingface/fineweb-2): Gopher's rules on paragraphs and on the
characters of repeated lines, FineWeb's on short lines, and C4 as a whole are off there, and a tenth of the
characters may be in repeated lines.
"""

from __future__ import annotations

from typing import Any

from headwater.data_pipeline.text.words.languages import Limits

NEVER = 1.0
"""Limit of a fraction that nothing exceeds."""
REPEATED_LINE_CHARACTERS = 0.1


def published(limits: Limits, *, score: bool) -> dict[str, dict[str, Any]]:
    """Changed settings by step. With `score`, also the minimum probability of the language, which only fits
    GlotLID."""
    quality: dict[str, Any] = {
        "min_mean_word_length": limits.min_avg_word_length,
        "max_mean_word_length": limits.max_avg_word_length,
        "min_alphabetic_words": limits.max_non_alpha_words_ratio,
    }
    quality |= {"stop_words": limits.stop_words} if limits.stop_words else {"min_stop_words": 0}
    settings: dict[str, dict[str, Any]] = {
        "gopher_repetition": {
            "max_duplicate_paragraphs": NEVER,
            "max_duplicate_paragraph_characters": NEVER,
            "max_duplicate_lines": limits.dup_line_frac,
            "max_duplicate_line_characters": NEVER,
            "top_ngrams": limits.top_n_grams,
            "duplicate_ngrams": limits.dup_n_grams,
        },
        "gopher_quality": quality,
        "c4": {"enabled": False},
        "fineweb": {
            "min_lines_with_end": max(0.0, limits.line_punct_thr),
            "max_short_lines": NEVER,
            "max_duplicate_line_characters": REPEATED_LINE_CHARACTERS,
            "max_newlines_per_word": limits.new_line_ratio,
        },
    }
    return settings | ({"language": {"min_score": limits.language_score}} if score else {})
