"""`headwater data plan` on a small mirror of Common Crawl."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.data_pipeline.acquire import Acquire
from headwater.recipe import load
from tests.data_pipeline.sources.common_crawl.mirror import CRAWL, build, serving, some_pages
from tests.headwater.command import headwater


def recipe(folder: Path, **source: object) -> Path:
    path = folder / "recipe.yaml"
    content = {"name": "few", "store": str(folder / "store"), "acquire": {"sources": [source]}}
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_plan_counts_pages_bytes_and_cost_and_the_run_does_not_look_up_again(
    tmp_path: Path, here: Session
) -> None:
    places = build(tmp_path / "mirror", some_pages())
    with serving(tmp_path / "mirror") as served:
        settings = {"kind": "common_crawl", "crawl": CRAWL, "root": served.url, "gap_bytes": 0}
        file = recipe(tmp_path, **settings, allow_addresses=["127.0.0.1"])
        code, shown = headwater("data", "plan", file, "--json", "--core-hour", "3600")
        assert code == 0, shown
        (row,) = json.loads(shown[shown.index("{") :])["sources"]
        fetched = sum(length for number, (_, length) in enumerate(places) if number not in (11, 13))
        assert (row["pages"], row["fetched_bytes"], row["files"]) == (38, fetched, 2)
        assert row["dollars"] == pytest.approx(38 / 50)
        assert not served.of(".warc.gz")
        looked_up = len(served.of(".parquet"))
        code, shown = headwater("data", "plan", file)
        assert code == 0 and "38" in shown and "acquire.sources.0" in shown
        assert here.store.location == str(tmp_path / "store")
        acquire = load(file).acquire
        assert acquire is not None
        acquired, _ = execute(Acquire(acquire), {}, here)
        assert acquired.finished().metrics["documents"] == 38
        assert len(served.of(".parquet")) == looked_up


def test_a_recipe_without_common_crawl_is_refused(tmp_path: Path) -> None:
    code, shown = headwater("data", "plan", recipe(tmp_path, kind="folder", paths=["pages"]))
    assert code == 1 and "no source `kind: common_crawl`" in shown
