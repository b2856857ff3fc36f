"""All checks, in groups that run beside each other: most tests wait for processes to start.

    python -m tests.together [--logs DIR]

Style, types and layers are a group; the others are a pytest each, with a Ray cluster of its own. The last
one's output is shown as it comes, the others' when they have ended.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HOSTS = "tests/cluster/runtime/test_several_hosts.py"
BESIDE = [HOSTS, "tests/headwater"]
PYTEST = [sys.executable, "-m", "pytest", "--durations=8"]
GROUPS = {
    "style, types and layers": ["make", "--no-print-directory", "lint"],
    "several hosts, whole runs, jobs and commands": [*PYTEST, *BESIDE],
    "everything else": [*PYTEST, "tests", *(f"--ignore={path}" for path in BESIDE)],  # another runs these
}


@dataclass
class Group:
    name: str
    command: list[str]
    log: Path | None
    """None: the screen."""

    def __post_init__(self) -> None:
        output = self.log.open("wb") if self.log else None
        self.process = subprocess.Popen(self.command, stdout=output, stderr=subprocess.STDOUT)

    def end(self) -> bool:
        """Wait, show what has not been seen yet, and say whether all passed."""
        passed = self.process.wait() == 0
        if self.log:
            print(f"\n-- {self.name}: {' '.join(self.command)}\n{self.log.read_text(errors='replace')}")
        return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--logs", type=Path, default=Path(".venv"))
    options = parser.parse_args()
    *beside, last = GROUPS
    logs = {name: options.logs / f"tests-{number}.log" for number, name in enumerate(beside)}
    print("\n".join(f"{name}: {log}" for name, log in logs.items()), flush=True)
    groups = [Group(name, GROUPS[name], logs[name]) for name in beside]
    groups.append(Group(last, GROUPS[last], None))
    failed = [group.name for group in reversed(groups) if not group.end()]
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall groups passed", flush=True)
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
