"""Usage per API key: requests by day, and tokens by day and model, in the store, without any text.

Each replica of the ingress has a file of its own for a day, `STORE/usage/DAY/REPLICA.json`, and writes it
every `WRITE_SECONDS`. A day's usage is the sum of its files: nothing is locked, no replica undoes another's.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store

log = logging.getLogger("headwater")

FOLDER = "usage"
WRITE_SECONDS = 5.0
"""Time between two writes: what a killed replica may lose, and how late others know of a key's usage."""


@dataclass(frozen=True)
class Used:
    """What a key has used."""

    name: str = ""
    """Of whoever has the key."""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    models: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Model → `prompt_tokens` and `completion_tokens` of these. Files of earlier versions have none."""

    @classmethod
    def tokens_of(cls, name: str, model: str, prompt: int, completion: int) -> Used:
        return cls(name, 0, prompt, completion, {model: dict(zip(KINDS, (prompt, completion), strict=True))})

    def by_model(self) -> dict[str, Mapping[str, int]]:
        """As `models`; under the empty name what no model is recorded for."""
        rest = {
            kind: getattr(self, kind) - sum(each[kind] for each in self.models.values()) for kind in KINDS
        }
        return dict(sorted(self.models.items())) | ({"": rest} if any(rest.values()) else {})

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Used) -> Used:
        return Used(
            self.name or other.name,
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            {
                model: {kind: _of(self, model, kind) + _of(other, model, kind) for kind in KINDS}
                for model in {**self.models, **other.models}
            },
        )


KINDS = ("prompt_tokens", "completion_tokens")


def _of(used: Used, model: str, kind: str) -> int:
    return used.models.get(model, {}).get(kind, 0)


ByKey = Mapping[str, Used]
"""A key's id → its usage."""


def day_of(now: float) -> str:
    """The day of UTC at a time (seconds since 1970), as YYYY-MM-DD."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")


class Ledger:
    """The usage that one replica counts, and what it knows of the others'."""

    def __init__(self, store: str = "", *, alone: bool = True) -> None:
        """Without a store the counts end with the process. `alone`: no other replica runs, so that others'
        files are of those before, and are read once."""
        self._alone = alone
        self._folder = Store(store).folder(FOLDER) if store else None
        self._file = f"{uuid.uuid4().hex}.json"
        self._own: dict[str, dict[str, Used]] = {}
        self._others: tuple[str, ByKey] = ("", {})
        self._written: dict[str, dict[str, Used]] = {}

    def add(self, key: str, used: Used, now: float) -> None:
        day = self._own.setdefault(day_of(now), {})
        day[key] = used + day.get(key, Used())

    def tokens_today(self, key: str, now: float) -> int:
        """Tokens of a key on this day: of this replica exactly, of others as they last wrote."""
        day = day_of(now)
        others = self._others[1] if self._others[0] == day else {}
        return self._own.get(day, {}).get(key, Used()).tokens + others.get(key, Used()).tokens

    def sync(self, now: float) -> None:
        """Write what is new, and read what others wrote of this day. Raises OSError and HeadwaterError."""
        if self._folder is None:
            return
        for day, by_key in list(self._own.items()):
            counted = dict(by_key)
            if self._written.get(day) != counted:
                self._folder.write_json(
                    f"{day}/{self._file}", {k: asdict(used) for k, used in counted.items()}
                )
                self._written[day] = counted
        today = day_of(now)
        if not self._alone or self._others[0] != today:
            self._others = (today, _read_day(self._folder, today, besides=self._file))
        for day in [day for day in self._own if day < today and self._written.get(day) == self._own[day]]:
            del self._own[day], self._written[day]

    async def keep(self) -> None:
        """Sync again and again. A store that fails is logged; the counts stay, and the next time has them."""
        while True:
            await self.sync_now()
            await asyncio.sleep(WRITE_SECONDS)

    async def sync_now(self) -> None:
        try:
            await asyncio.to_thread(self.sync, datetime.now(UTC).timestamp())
        except (OSError, HeadwaterError):
            log.exception("usage was not written")


def read_usage(store: Store) -> dict[str, dict[str, Used]]:
    """Day → key id → usage, of all replicas, the latest day first."""
    folder = store.folder(FOLDER)
    days = sorted({name.split("/")[0] for name in folder.files(suffix=".json")}, reverse=True)
    return {day: _read_day(folder, day) for day in days}


def _read_day(folder: Artifact, day: str, besides: str = "") -> dict[str, Used]:
    total: dict[str, Used] = collections.defaultdict(Used)
    for name in folder.files(day, suffix=".json"):
        if not besides or not name.endswith(f"/{besides}"):
            for key, used in folder.read_json(name).items():
                total[key] = total[key] + Used(**used)
    return dict(total)
