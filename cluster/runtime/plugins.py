"""Functions and classes of a user's own file: `rl.verifier: my_rewards.py:brief`, `clean.filters: - custom:
my_filters.py:Shouting`.

A plugin is one file of Python, with imports of installed packages only. Its content is part of the stage's
key and travels to the workers; the file need not be there.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import types
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.cluster.errors import HeadwaterError

SEPARATOR = ".py:"


@dataclass(frozen=True)
class Plugin:
    """A function or class of a file, by name."""

    name: str
    """`FILE.py:FUNCTION`, as in the recipe."""
    source: str
    """The file's text."""

    @property
    def function(self) -> str:
        return self.name.rpartition(":")[2]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()

    def load(self) -> Any:
        """Run the file. Its function, or one object of its class."""
        found = self.definition()
        return found() if inspect.isclass(found) else found

    def definition(self) -> Any:
        """Run the file. Its function or class. The module has a name of its own in `sys.modules`, where
        pydantic looks up the types of a class's fields."""
        path = self.name.rpartition(":")[0]
        module = types.ModuleType(f"{Path(path).stem}_{self.sha256[:16]}")
        module.__file__ = path
        sys.modules[module.__name__] = module
        exec(compile(self.source, path, "exec"), module.__dict__)  # noqa: S102  the user's own
        return getattr(module, self.function)


def is_plugin(name: str) -> bool:
    """Whether a name is `FILE.py:FUNCTION`."""
    return SEPARATOR in name


def read_plugin(name: str, setting: str) -> Plugin:
    """Read the file without running it.

    Raises HeadwaterError that names `setting`, file and function, if the file cannot be read, is not Python,
    or defines no such name.
    """
    path, _, function = name.rpartition(":")
    where = f"{setting}: {name}"
    try:
        source = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HeadwaterError(
            f"cannot read the file {path} ({error})", where=where, fix="correct the path"
        ) from error
    try:
        defined = list(_defined(ast.parse(source, path)))
    except SyntaxError as error:
        raise HeadwaterError(
            f"{path} is not Python: line {error.lineno}, {error.msg}", where=where
        ) from error
    if function not in defined:
        known = ", ".join(defined) or "nothing"
        raise HeadwaterError(
            f"{path} defines no `{function}`", where=where, fix=f"name what it defines: {known}"
        )
    return Plugin(name, source)


def _defined(tree: ast.Module) -> Iterable[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
