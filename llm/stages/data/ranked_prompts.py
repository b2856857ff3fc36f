"""Prompts that people ranked, as tasks of reinforcement learning.

The stage keeps them in its output: rankings go on arriving while it runs, and `trace` needs those of its
beginning.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.sources.items import Unread
from headwater.llm.examples.conversations import Conversation
from headwater.llm.examples.own_data import source as own
from headwater.llm.examples.own_data.reading import OwnFile
from headwater.llm.examples.preferences import rankings_fingerprint, split_of_prompt
from headwater.llm.examples.rankings import RANKINGS, read
from headwater.llm.examples.tasks import Task
from headwater.llm.rankings.pairs import pairs_in

FILE = "ranked_prompts.json"
SETTING = "rl.rankings"
Split = Literal["train", "heldout"]


def fingerprint(setting: Literal[True] | str, store: Store) -> dict[str, Any]:
    """Changes with the rankings that `rl.rankings` names."""
    if isinstance(setting, str):
        return {"ranked": own.fingerprint([pairs_in(setting)], SETTING)}
    return rankings_fingerprint(store)


def keep(setting: Literal[True] | str, store: Store, output: Artifact) -> dict[Split, list[Task]]:
    """The tasks of `rl.rankings`; those that a stopped run has kept already, if there was one."""
    if not output.exists(FILE):
        output.write_json(FILE, _distinct(_ranked(setting, store)))
    return kept_tasks(output)


def kept_tasks(output: Artifact) -> dict[Split, list[Task]]:
    """One task for each prompt, as `keep` left them, in the split in which the reward stage has it."""
    tasks: dict[Split, list[Task]] = {"train": [], "heldout": []}
    for origin, prompt in output.read_json(FILE):
        tasks[split_of_prompt(prompt)].append(Task(origin, prompt, verifiable=False))
    return tasks


def _ranked(setting: Literal[True] | str, store: Store) -> Iterable[tuple[str, Conversation]]:
    if not isinstance(setting, str):
        yield from ((f"{RANKINGS}/{each.name}", each.ranking.prompt) for each in read(store))
        return
    for file in own.list_files([pairs_in(setting)], SETTING):
        for where, pair in OwnFile(file.source, file.path).preferences():
            if not isinstance(pair, Unread):  # the reward stage, which learns from them, reports these
                yield where, pair.prompt


def _distinct(ranked: Iterable[tuple[str, Conversation]]) -> list[tuple[str, Conversation]]:
    """The first of each prompt."""
    first: dict[str, tuple[str, Conversation]] = {}
    for origin, prompt in ranked:
        first.setdefault(repr(prompt), (origin, prompt))
    return list(first.values())
