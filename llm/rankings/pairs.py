"""Rankings as pairs of a better and a worse answer, in the records that `reward.data` and `dpo.data` read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from headwater.llm.examples.own_data.source import DataSource
from headwater.llm.examples.rankings import Kept


def pairs_in(file: str) -> DataSource:
    """The file of `pair_lines`, as a source of `reward.data` and `dpo.data`."""
    return DataSource(files=(file,), format="preference")


def pair_lines(kept: Iterable[Kept]) -> Iterator[str]:
    """One line of JSON in the format `preference` per pair, with its rater and the file it comes from."""
    for each in kept:
        for prompt, better, worse in each.ranking.pairs():
            record: dict[str, Any] = {"prompt": prompt, "chosen": better.text, "rejected": worse.text}
            for side, answer in (("chosen", better), ("rejected", worse)):
                if answer.finish_reason:
                    record[f"{side}_finish_reason"] = answer.finish_reason
            record |= {"rater": each.ranking.rater, "ranking": each.name}
            yield f"{json.dumps(record, ensure_ascii=False)}\n"
