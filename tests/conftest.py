"""What all tests share: one Ray cluster for the whole session, a store per test, the real data if present."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage import object_store
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.sources import opening
from tests.s3 import s3_server as s3_server  # the fixture
from tests.together import SIGNS

# The programs of the extra `tests` (weed, ray, headwater) lie beside this interpreter, on the PATH or not.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
# Ray starts its workers at niceness 15, where tests beside them on the same cores would starve them.
os.environ.setdefault("RAY_worker_niceness", "0")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    texts: dict[Path, str] = {}
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")
        for mark, sign in SIGNS.items():
            if item.get_closest_marker(mark) and not sign.search(
                texts.setdefault(item.path, item.path.read_text())
            ):
                raise pytest.UsageError(f"{item.nodeid}: SIGNS in tests/together.py do not find its `{mark}`")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another attempt of this process at a download or a read follows at once."""
    monkeypatch.setattr(opening, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(object_store, "FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An embedded Ray with two CPUs, started once."""
    folder = tmp_path_factory.mktemp("ray")
    with Session(Store(str(folder)), num_cpus=2) as session:
        session.ray()
        yield


@pytest.fixture
def session(ray_cluster: None, tmp_path: Path) -> Iterator[Session]:
    with Session(Store(str(tmp_path / "store"))) as open_session:
        yield open_session


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Session]:
    """A session whose pools work in this process: for what a stage makes, not for how it is spread."""
    with Session(Store(str(tmp_path / "store")), max_workers=0) as open_session:
        yield open_session


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pages, books, conversations and pairs that lie beside the checkout, where they do."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED_DATA
