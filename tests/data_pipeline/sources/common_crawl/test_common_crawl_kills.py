"""Common Crawl sources under SIGKILL, and on several workers: the same bytes, and no part fetched twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute, locate
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.acquire import Acquire, AcquireConfig
from headwater.data_pipeline.parts import DOCUMENTS
from headwater.data_pipeline.sources.common_crawl import selection
from tests.cluster.heads import ROOT
from tests.data_pipeline.sources.common_crawl.mirror import CRAWL, Page, Served, build, serving

PER_PART, AT_ONCE = 10, 4
DRIVER = """
import sys
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.acquire import Acquire, AcquireConfig
from headwater.data_pipeline.sources.common_crawl import selection
selection.UNIT_BYTES = 40_000
config = AcquireConfig.model_validate_json(sys.argv[1])
with Session(Store(sys.argv[2]), max_workers=0) as session:
    execute(Acquire(config), {}, session)
"""


def stage(served: Served) -> Acquire:
    source = {"kind": "common_crawl", "crawl": CRAWL, "root": served.url, "gap_bytes": 0}
    source |= {"requests_at_once": AT_ONCE, "allow_addresses": ["127.0.0.1"]}
    return Acquire(AcquireConfig.model_validate({"sources": [source], "documents_per_part": PER_PART}))


def documents(artifact: Artifact) -> dict[str, bytes]:
    return {name: artifact.read_bytes(name) for name in artifact.files(DOCUMENTS)}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_killed_runs_give_the_bytes_of_a_whole_one_and_fetch_no_stored_part_again(
    here: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(selection, "UNIT_BYTES", 40_000)
    pages = [Page(f"https://h{n % 50:02}.example.org/{n}", file=n % 7) for n in range(400)]
    build(tmp_path / "mirror", pages, index_files=5)
    generator = random.Random(seed)
    with serving(tmp_path / "mirror") as served:
        acquire = stage(served)
        whole = documents(execute(acquire, {}, here)[0])
        assert len(whole) > 40
        served.asked.clear()
        store, kills = tmp_path / "killed", 0
        command = [sys.executable, "-c", DRIVER, acquire.config.model_dump_json(), str(store)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with Session(Store(str(store)), max_workers=0) as session:
            output = locate(acquire, {}, session)
        for _ in range(4):
            before, until = len(served.asked), generator.randint(1, 120)
            process = subprocess.Popen(command, cwd=ROOT, env=environment)
            while process.poll() is None and len(served.asked) - before < until:
                time.sleep(0.001)
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert kills and output.manifest() is None
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        assert done.returncode == 0
        assert documents(output) == whole
        fetched = len(served.of(".warc.gz"))
        assert len(pages) <= fetched <= len(pages) + kills * (PER_PART + 1 + AT_ONCE)


@pytest.mark.soak  # `make test` has it in one process
def test_workers_of_a_cluster_write_what_one_process_writes(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "UNIT_BYTES", 40_000)
    build(
        tmp_path / "mirror", [Page(f"https://example.org/{n}", file=n % 3) for n in range(200)], index_files=4
    )
    with serving(tmp_path / "mirror") as served:
        spread = execute(stage(served), {}, session)[0]
        assert spread.finished().metrics["units"] > 2
        with Session(Store(str(tmp_path / "here")), max_workers=0) as alone:
            assert documents(execute(stage(served), {}, alone)[0]) == documents(spread)
