"""Style, types and the nearest tests of what is changed: `python -m tests.quick [--since main]`.

Changed is what differs from where the branch left `main`, with what git does not know yet. The tests of a
source file are those named after it (`pool.py`: `test_pool.py`). Without such a name they are the nearest
in the import graph, fewest imports first, four at most. Soak tests are left to `make test-all`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["headwater", "tests"]
LINKED = {"serving", "llm", "data_pipeline", "cluster"}
"""Folders that headwater/ links to: their modules are headwater.llm and so on."""
MOST = 4
"""Test files of one source file: a file that everything imports would bring them all."""


def git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def changed(since: str) -> list[Path]:
    """Files that differ from the branch's beginning, and those that git does not know."""
    base = git("merge-base", "HEAD", since) or ["HEAD"]
    names = git("diff", "--name-only", "--diff-filter=d", base[0])
    return sorted({Path(name) for name in [*names, *git("ls-files", "--others", "--exclude-standard")]})


def nearest_tests(paths: Iterable[Path], graph: grimp.ImportGraph) -> list[Path]:
    """The test files to run when these files (relative to the repository) are changed."""
    chosen: set[Path] = set()
    for path in paths:
        if path.suffix != ".py":
            continue
        if path.parts[0] == "tests" and path.stem.startswith("test_"):
            chosen.add(path)
            continue
        named = {found.relative_to(ROOT) for found in (ROOT / "tests").rglob(f"test_{path.stem}.py")}
        chosen |= named or set(_nearest(_module(path), graph))
    return sorted(chosen)


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(("headwater", *parts) if parts[0] in LINKED else parts).removesuffix(".__init__")


def _nearest(module: str, graph: grimp.ImportGraph) -> list[Path]:
    """Test files that import a module, or where none does, its importers."""
    level, seen = {module} & graph.modules, {module}
    while level:
        level = {name for one in level for name in graph.find_modules_that_directly_import(one)} - seen
        seen |= level
        tests = [name for name in level if name.rpartition(".")[2].startswith("test_")]
        if tests:
            tests.sort(key=lambda name: (len(graph.find_modules_directly_imported_by(name)), name))
            return [Path(*name.split(".")).with_suffix(".py") for name in tests[:MOST]]
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--since", default="main")
    paths = changed(parser.parse_args().since)
    python = [str(path) for path in paths if path.suffix == ".py"]
    typed = [name for name in python if Path(name).parts[0] in LINKED | {"headwater"}]
    tests = [
        str(path)
        for path in nearest_tests(paths, grimp.build_graph(*PACKAGES, cache_dir=".import_linter_cache"))
    ]
    commands = [
        (["ruff", "check"], python),
        (["ruff", "format", "--check"], python),
        (["mypy"], typed),
        (["pytest", "--durations=5", "-m", "not soak"], tests),
    ]
    print(f"{len(paths)} files changed; tests: {', '.join(tests) or 'none'}", flush=True)
    codes = [subprocess.call([sys.executable, "-m", *what, *on], cwd=ROOT) for what, on in commands if on]
    raise SystemExit(any(code not in (0, 5) for code in codes))  # 5: all tests of these files are soak


if __name__ == "__main__":
    main()
