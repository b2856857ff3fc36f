"""Tasks that a program makes: a name of `TASKS`, or `FILE.py:FUNCTION` of the user's own.

`rl.task` learns from rewards for answers to them, `sft.task` from their right answers, and `base.fresh`
trains a tokenizer on their text. All three hold out the same tenth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from headwater.cluster.errors import HeadwaterError, first_line
from headwater.cluster.runtime.plugins import is_plugin, read_plugin
from headwater.llm.examples.conversations import split_of
from headwater.llm.examples.tasks import Task, arithmetic_tasks

TASKS: dict[str, tuple[Callable[[], Iterable[Task]], str]] = {"arithmetic": (arithmetic_tasks, "number")}
"""Tasks made by a program, each with its verifier."""
SEARCH = "search"
"""A name of `rl.task` alone: its tasks are made from the stage `grounded`, see `rl/rollouts/search.py`."""


def check_name(name: str, known: Iterable[str]) -> None:
    """Raises ValueError if a setting names neither one of `known` nor a function of a file."""
    if name not in known and not is_plugin(name):
        raise ValueError(f"no {name}: one of {', '.join(known)}, or FILE.py:FUNCTION")


def task_fingerprint(name: str | None, setting: str) -> dict[str, str]:
    """What a task depends on beside its name: the content of the user's file, which is read and not run.

    Raises HeadwaterError, as `read_plugin`.
    """
    return {name: read_plugin(name, setting).sha256} if name and is_plugin(name) else {}


def made_tasks(name: str, setting: str = "rl.task") -> dict[str, list[Task]]:
    """The tasks of both splits, in the order in which they are made.

    A pair's split follows from its prompt: a prompt that comes twice is in one split. A `Task` of the user's
    chooses by its `origin` what it is kept together with.

    Raises HeadwaterError that names the function if it raises, or yields anything but a pair of a prompt and
    a reference, or a `Task`.
    """
    tasks: dict[str, list[Task]] = {"train": [], "heldout": []}
    try:
        made = TASKS[name][0]() if name in TASKS else read_plugin(name, setting).load()()
        for number, given in enumerate(made):
            task = given if isinstance(given, Task) else _task(f"{name}:{number}", *given)
            together = task.origin if isinstance(given, Task) else task.prompt[-1]["content"]
            tasks[split_of(together)].append(task)
    except HeadwaterError:
        raise
    except Exception as error:
        raise HeadwaterError(
            f"the task failed ({type(error).__name__}: {first_line(error)})",
            where=f"{setting}: {name}",
            fix="have it yield pairs of a prompt and a right answer, both text",
        ) from error
    return tasks


def _task(origin: str, prompt: str, reference: str) -> Task:
    if not isinstance(prompt, str) or not isinstance(reference, str):
        raise TypeError(f"yielded {prompt!r}, {reference!r}")
    return Task(origin, [{"role": "user", "content": prompt}], reference)
