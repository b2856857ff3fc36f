"""Quotas of API keys: requests per minute, tokens per minute and per day, and OpenAI's headers about them.

Minutes are sliding and counted by each replica of the ingress. Days are counted over all replicas and
restarts by the ledger. A request that begins below its limit is answered to its end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from headwater.serving.api.keys.auth import Key, Limits
from headwater.serving.api.keys.usage import Ledger, Used
from headwater.serving.api.limits import MINUTE, Window, too_many

DAY = 86_400.0


@dataclass(frozen=True)
class _Standing:
    """How a key stands with one of its limits."""

    most: int
    used: int
    wait: float
    """Seconds until there is some left."""
    reset: float
    """Seconds until all of it is left."""

    @property
    def remaining(self) -> int:
        return max(0, self.most - self.used)


class Quotas:
    """Counts what each key uses, and refuses what is too much."""

    def __init__(self, defaults: Limits, ledger: Ledger, clock: Callable[[], float] = time.time) -> None:
        """`defaults`: of keys that have no limits of their own. `clock`: seconds since 1970."""
        self._defaults, self._ledger, self._clock = defaults, ledger, clock
        self._requests, self._tokens = Window(), Window()

    def request(self, key: Key) -> None:
        """Count a request. Raises ApiError 429 if it is one too many."""
        standing = self._request_standing(key)
        if standing and not standing.remaining:
            raise too_many(standing.most, "requests in a minute", standing.wait)
        now = self._clock()
        if standing:
            self._requests.add(key.id, 1, now)
        self._ledger.add(key.id, Used(key.name, requests=1), now)

    def check_tokens(self, key: Key) -> None:
        """Raises ApiError 429 if the key has used its tokens of this minute or day."""
        for what, standing in self._token_standings(key).items():
            if not standing.remaining:
                raise too_many(standing.most, f"tokens in a {what}", standing.wait)

    def spent(self, key: Key, model: str, *, prompt: int = 0, completion: int = 0) -> None:
        """Count tokens of a model."""
        now = self._clock()
        if self._limits(key).tokens_per_minute is not None:
            self._tokens.add(key.id, prompt + completion, now)
        self._ledger.add(key.id, Used.tokens_of(key.name, model, prompt, completion), now)

    def headers(self, key: Key) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*`; of tokens, those of the limit of which less is left."""
        made: dict[str, str] = {}
        tokens = min(self._token_standings(key).values(), key=lambda each: each.remaining, default=None)
        for what, standing in (("requests", self._request_standing(key)), ("tokens", tokens)):
            if standing:
                made[f"x-ratelimit-limit-{what}"] = str(standing.most)
                made[f"x-ratelimit-remaining-{what}"] = str(standing.remaining)
                made[f"x-ratelimit-reset-{what}"] = _duration(standing.reset)
        return made

    def _limits(self, key: Key) -> Limits:
        return key.limits.or_else(self._defaults)

    def _request_standing(self, key: Key) -> _Standing | None:
        most = self._limits(key).requests_per_minute
        return None if most is None else self._minute(self._requests, key, most)

    def _token_standings(self, key: Key) -> dict[str, _Standing]:
        limits, now = self._limits(key), self._clock()
        found: dict[str, _Standing] = {}
        if limits.tokens_per_day is not None:
            night = DAY - now % DAY
            used = self._ledger.tokens_today(key.id, now)
            found["day"] = _Standing(limits.tokens_per_day, used, night, night if used else 0.0)
        if limits.tokens_per_minute is not None:
            found["minute"] = self._minute(self._tokens, key, limits.tokens_per_minute)
        return found

    def _minute(self, window: Window, key: Key, most: int) -> _Standing:
        now = self._clock()
        wait, all_left = window.wait(key.id, most, now), window.wait(key.id, 1, now)
        return _Standing(most, window.used(key.id, now), wait or MINUTE, all_left)


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `1s`, `6m0s`, `2h0m5s`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"
