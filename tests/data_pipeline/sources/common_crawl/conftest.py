"""A small mirror of Common Crawl, on disk and behind a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data_pipeline.sources.common_crawl.mirror import PAGES, Served, build, serving


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mirror")
    build(root, PAGES)
    return root


@pytest.fixture
def served(built: Path) -> Iterator[Served]:
    with serving(built) as state:
        yield state
