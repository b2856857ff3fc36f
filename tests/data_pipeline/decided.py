"""What becomes of texts at one step, as the clean stage decides it: scores, their table, `own_verdicts`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from headwater.data_pipeline.clean.funnel import StepCount
from headwater.data_pipeline.clean.score_documents import Measured
from headwater.data_pipeline.clean.scores import Signer, schema, score_row
from headwater.data_pipeline.clean.select_documents import own_verdicts
from headwater.data_pipeline.clean.steps import OWN_STEPS, CleanConfig
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.filters import c4, fineweb, gopher
from headwater.data_pipeline.text.document_text import Text
from headwater.data_pipeline.verdict import Rejection, Scores

MEASURES: dict[str, Callable[[str, Any], tuple[str, Scores] | Rejection]] = {
    "gopher_repetition": lambda text, config: (text, gopher.measure_repetition(Text(text), config)),
    "gopher_quality": lambda text, config: (text, gopher.measure_quality(Text(text), config)),
    "c4": c4.measure,
    "fineweb": lambda text, config: (text, fineweb.measure(Text(text), config)),
}
"""Step → the text that it leaves, with its scores; or a rejection, where it needs no rule."""


def decided(step: str, texts: Sequence[str], **settings: Any) -> list[tuple[str | None, str]]:
    """Of each text the reason why the step drops it, or None and the text as the step leaves it."""
    off = {name: {"enabled": False} for name in (*OWN_STEPS, "minhash_dedup") if name != step}
    config = CleanConfig.model_validate(off | {step: settings})
    rows, left, sign = [], [], Signer(config)("")
    for text in texts:
        result = MEASURES[step](text, getattr(config, step))
        found = Measured(Document("", "", "", text), {"read": len(text)}, {})
        if isinstance(result, Rejection):
            found.stop = step, result
        else:
            found.scores[step] = result[1]
        left.append("" if isinstance(result, Rejection) else result[0])
        rows.append(score_row(found, sign))
    table = pa.Table.from_pylist(rows, schema=schema(config))
    verdicts = own_verdicts(table, config, {name: StepCount(name) for name in config.own_steps()})
    dropped = zip(verdicts.step, verdicts.reason, left, strict=True)
    return [(None, text) if by is None else (str(reason), "") for by, reason, text in dropped]
