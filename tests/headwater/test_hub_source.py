"""A run that reads `hf://` in a process of its own, where HF_HUB_OFFLINE forbids every unasked download."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from tests.data_pipeline.corpora import article
from tests.headwater.command import HERE, in_a_process
from tests.hub import REPOSITORY, hub


def test_a_run_reads_a_dataset_of_the_hub_though_session_and_image_are_offline(tmp_path: Path) -> None:
    (tmp_path / "hub/data").mkdir(parents=True)
    rows = [{"text": article(n), "url": f"https://example.org/{n}"} for n in range(20)]
    (tmp_path / "hub/data/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "far",
        "store": str(tmp_path / "store"),
        "acquire": {"sources": [{"kind": "jsonl", "paths": [f"hf://datasets/{REPOSITORY}/data"]}]},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with hub(tmp_path / "hub") as url:
        until_acquired = ("run", tmp_path / "recipe.yaml", "--until", "acquire", *HERE)
        code, output = in_a_process(*until_acquired, HF_ENDPOINT=url, HF_HUB_OFFLINE="1")
    assert code == 0, output
    documents = [p for p in (tmp_path / "store/acquire").rglob("*.parquet") if "unread" not in p.parts]
    assert sum(pq.read_metadata(path).num_rows for path in documents) == len(rows)
