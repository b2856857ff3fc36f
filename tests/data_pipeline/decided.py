"""What becomes of texts at one step, as the clean stage decides it: scores, their table, `own_verdicts`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from headwater.data_pipeline.clean.funnel import StepCount
from headwater.data_pipeline.clean.scores import Signer, schema, score_row
from headwater.data_pipeline.clean.select_documents import own_verdicts
from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.filters import c4
from headwater.data_pipeline.filters.filter import Measured
from headwater.data_pipeline.verdict import Rejection


def decided(
    step: str, texts: Sequence[str], *, language: str = "", **settings: Any
) -> list[tuple[str | None, str]]:
    """Of each text the reason why the step drops it, or None and the text as the step leaves it. All texts
    are taken to be in `language`, if one is given."""
    off: dict[str, Any] = {name: {"enabled": False} for name in CleanConfig().names() if name != step}
    if language:
        off["language"] = {"languages": [language]}
    config = CleanConfig.model_validate(off | {step: settings})
    rows, left, sign = [], [], Signer(config)("")
    filter = config.of_language(language).filter(step) if language else config.filter(step)
    assert filter is not None
    measure = filter.measurer()
    for text in texts:
        found = Measured(Document("", "", "", text), {"read": len(text)})
        if language:
            found.splitter = config.splitter(language)
            found.scores["language"] = {"language": language, "certainty": 1.0}
        result = measure(found)
        if isinstance(result, Rejection):
            found.stop = step, result
        else:
            found.scores[step] = result
        if step == "c4" and isinstance(without_indentation := c4.measure(text, config.c4), tuple):
            found.document.text = without_indentation[0]  # as datatrove leaves it
        left.append(found.document.text)
        rows.append(score_row(found, sign))
    table = pa.Table.from_pylist(rows, schema=schema(config))
    verdicts = own_verdicts(table, config, {name: StepCount(name) for name in config.own_steps()})
    dropped = zip(verdicts.step, verdicts.reason, left, strict=True)
    return [(None, text) if by is None else (str(reason), "") for by, reason, text in dropped]
