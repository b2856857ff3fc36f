"""Continuous batching: sequences enter and leave a running batch at any step.

`Batch.submit` queues a prompt, `Batch.step` gives one token to every running sequence and reads prompts that
have entered, `Batch.cancel` drops one. Rows of the decoder are kept dense: first the running sequences, then
those whose prompt is still being read; the last row moves into a row that becomes free.

A sample depends only on weights, prompt, settings and seed, up to rounding, not on its neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from headwater.cluster.errors import HeadwaterError
from headwater.llm.inference.base import Event, Limits, Sampling
from headwater.llm.inference.forward.decoder import Decoder
from headwater.llm.inference.forward.low_rank import Adapter, using
from headwater.llm.inference.forward.prefixes import SHARED_TOKENS, Prefix, Prefixes, common
from headwater.llm.inference.next_token.guided import Guide
from headwater.llm.inference.next_token.sampling import Choices, choose, uniforms

POSITION_BLOCK = 64
"""Positions of a row are reserved in blocks."""
PADDING = 16
"""Prompts that are read together may differ by so many ids, or by a quarter of the longest."""


@dataclass(eq=False, kw_only=True)
class _Sequence(Choices):
    handle: int
    adapter: Adapter | None = None
    text: tuple[int, ...]
    """What is read before the first choice: the prompt, and what the completion already had."""
    length: int = 0
    """Positions that the decoder holds."""
    placed: bool = False
    """Whether what it shares with others has been copied."""
    version: int = 0
    """Of the weights that read it."""

    @property
    def positions(self) -> int:
        """Reserved for it."""
        return -(-(len(self.prompt) + self.sampling.max_tokens) // POSITION_BLOCK) * POSITION_BLOCK


class Batch:
    """Sequences that share forward passes. Not thread-safe."""

    def __init__(
        self,
        decoder: Decoder,
        context: int,
        stop_ids: Iterable[int] = (),
        limits: Limits | None = None,
        version: Callable[[], int] = lambda: 0,
        vocabulary: int | None = None,
        guide: Callable[[str, Sequence[int]], Guide] | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        """`adapter` is that of sequences which bring none. `version` counts changes of the weights: keys that
        older ones made are not copied. `vocabulary` is the number of logits; `guide` opens one for a schema
        and the ids that may end it."""
        self._decoder, self._context, self._stop = decoder, context, tuple(stop_ids)
        self._limits = limits or Limits()
        self._version, self._vocabulary, self._guide = version, vocabulary, guide
        self._adapter = adapter
        self._waiting: deque[_Sequence] = deque()
        self._rows: list[_Sequence] = []
        self._running = 0  # the first rows; the prompts of the others are being read
        self._handles = 0
        per_position, memory = decoder.bytes_per_position, self._limits.memory
        self.prefixes = Prefixes(self._limits.prefixes if decoder.shares else 0)
        self._room = memory // per_position if per_position and memory is not None else None

    @property
    def idle(self) -> bool:
        """Whether no sequence runs or waits."""
        return not self._rows and not self._waiting

    def submit(
        self,
        prompt: list[int],
        sampling: Sampling,
        seed: int | None = None,
        number: int = 0,
        *,
        said: Sequence[int] = (),
        adapter: Adapter | None = None,
    ) -> int:
        """Queue a prompt of at least one id for at least one token. Returns the handle of its events.

        `seed` replaces `sampling.seed`; `number` tells samples of one seed apart; `said`: as in the protocol;
        `adapter` acts on this sequence alone.
        Raises HeadwaterError for a sequence that can never run here.
        """
        self._check(len(prompt), sampling.max_tokens)
        sequence = _Sequence(
            handle=self._handles + 1,
            adapter=adapter or self._adapter,
            prompt=tuple(prompt),
            text=(*prompt, *said),
            sampling=sampling,
            uniforms=uniforms(sampling, sampling.seed if seed is None else seed, number),
            **self._ending(sampling),
        )
        if said and (said[-1] in sequence.ends or len(said) >= sampling.max_tokens):
            return 0
        sequence.say(said)
        self._handles += 1
        self._waiting.append(sequence)
        return self._handles

    @torch.inference_mode()
    def cancel(self, handle: int) -> None:
        """Drop a sequence; it has no more events. A handle that has finished is ignored."""
        self._waiting = deque(one for one in self._waiting if one.handle != handle)
        for row, one in enumerate(self._rows):
            if one.handle == handle:
                return self._leave(row)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One token for each running sequence, then the first of those whose prompts have been read."""
        self._forget_old_keys()
        events = self._decode()
        self._admit()
        return events + self._read()

    def _check(self, prompt: int, new: int) -> None:
        if not prompt:
            raise HeadwaterError("the prompt is empty", fix="give at least one token id")
        if prompt + new > self._context:
            raise HeadwaterError(
                f"{prompt} + {new} tokens exceed the context of {self._context}",
                fix="shorten the prompt or ask for fewer tokens",
            )
        if self._room is not None and prompt + new > self._room:
            needed = (prompt + new) * self._decoder.bytes_per_position
            raise HeadwaterError(
                f"keys and values of {prompt} + {new} tokens take {needed / 1e6:.0f} MB; "
                f"the limit is {(self._limits.memory or 0) / 1e6:.0f} MB",
                fix="raise the limit, shorten the prompt or ask for fewer tokens",
            )

    def _ending(self, sampling: Sampling) -> dict[str, Any]:
        """The ids that end a completion, and its guide."""
        known = range(self._vocabulary) if self._vocabulary is not None else None
        if strange := [id for id, _ in sampling.logit_bias if known is not None and id not in known]:
            raise HeadwaterError(
                f"`logit_bias` names the id {strange[0]}", fix=f"use ids from 0 to {len(known or ()) - 1}"
            )
        unless_ignored = () if sampling.ignore_eos and sampling.schema is None else self._stop
        ends = [id for id in (*unless_ignored, *sampling.stop_ids) if known is None or id in known]
        if sampling.schema is None:
            return {"ends": frozenset(ends)}
        if self._guide is None:
            raise HeadwaterError("this engine does not follow a `schema`")
        return {"ends": frozenset(ends), "guide": self._guide(sampling.schema, ends)}

    def _forget_old_keys(self) -> None:
        """Prompts that older weights began are read from their start; running sequences go on."""
        version = self._version()
        for row, one in enumerate(self._rows[self._running :], start=self._running):
            if one.placed and one.version != version:
                self._decoder.clear(row)
                one.length, one.placed = 0, False

    def _admit(self) -> None:
        entering: list[_Sequence] = []
        positions = max((one.positions for one in self._rows), default=0)
        while self._waiting and len(self._rows) + len(entering) < self._limits.sequences:
            wider = max(positions, self._waiting[0].positions)
            if self._room is not None and (len(self._rows) + len(entering) + 1) * wider > self._room:
                if self._rows or entering:
                    break
                wider = len(self._waiting[0].prompt) + self._waiting[0].sampling.max_tokens
            entering.append(self._waiting.popleft())
            positions = wider
        if not entering:
            return
        first, live = len(self._rows), len(self._rows)
        self._rows += _repeats_last(entering)
        rows = len(self._rows) if not live else min(2 * len(self._rows), self._limits.sequences)
        if self._room is not None:
            rows = max(len(self._rows), min(rows, self._room // positions))
        self._decoder.reserve(rows, positions, live)
        for row in range(first, len(self._rows)):
            self._decoder.clear(row)

    def _decode(self) -> list[Event]:
        rows = self._rows[: self._running]
        if not rows:
            return []
        logits_BV = self._forward(
            range(len(rows)), [one.length for one in rows], [one.ids[-1:] for one in rows]
        )
        for one in rows:
            one.length += 1
        return self._choose(list(range(len(rows))), logits_BV)

    def _forward(
        self, rows: Sequence[int], starts: Sequence[int], ids: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        with using([self._rows[row].adapter for row in rows], self._decoder.device):
            return self._decoder.read(rows, starts, ids)

    def _read(self) -> list[Event]:
        """Read prompts, up to `limits.read_tokens`. Returns the first tokens of those that are complete."""
        complete: dict[int, torch.Tensor] = {}
        budget = self._limits.read_tokens
        while budget > 0 and (rows := self._readable()):
            taken: dict[int, tuple[int, ...]] = {}
            for row in rows:
                one = self._rows[row]
                if budget > 0:
                    taken[row] = one.text[one.length : one.length + budget]
                    budget -= len(taken[row])
            for part in _alike(taken):
                starts, ids = [self._rows[row].length for row in part], [taken[row] for row in part]
                for row, logits_V in zip(part, self._forward(part, starts, ids), strict=True):
                    self._rows[row].length += len(taken[row])
                    if self._rows[row].length == len(self._rows[row].text):
                        complete[row] = logits_V
        return self._start(complete) if complete else []

    def _start(self, complete: dict[int, torch.Tensor]) -> list[Event]:
        """Move rows whose prompt has been read behind the running ones. Returns their first tokens."""
        started = range(self._running, self._running + len(complete))
        behind = sorted(row for row in complete if row not in started)
        for row in started:
            if row not in complete:
                other = behind.pop()
                self._decoder.swap(row, other)
                self._rows[row], self._rows[other] = self._rows[other], self._rows[row]
                complete[row] = complete[other]
        self._running = started.stop
        return self._choose(list(started), torch.stack([complete[row] for row in started]))

    def _readable(self) -> list[int]:
        """Rows whose prompt can be read on: all but those that others are reading the beginning of."""
        return [
            row
            for row, one in enumerate(self._rows)
            if row >= self._running and one.length < len(one.text) and self._place(row)
        ]

    def _place(self, row: int) -> bool:
        """Copy what a prompt shares with one that has been read, or was. False: it waits for more of that."""
        one = self._rows[row]
        if one.placed:
            return True
        most, best, source, coming = len(one.text) - 1, 0, -1, 0
        for other_row, other in self._beginnings(row) if self._decoder.shares else ():
            shared = min(common(one.text, other.text), most)
            coming = max(coming, shared)
            if min(shared, other.length) > best:
                best, source = min(shared, other.length), other_row
        kept, prefix = self.prefixes.best(one.text, self._version(), _number(one))
        kept = min(kept, most)
        length = max(best, kept)
        if coming > length and (coming == most or coming >= SHARED_TOKENS):
            return False
        if length and (length == most or length >= SHARED_TOKENS):
            if prefix is not None and kept > best:
                self._decoder.restore(row, prefix.tensors, kept)
                self.prefixes.use(prefix, kept)
            else:
                self._decoder.copy(source, row, best)
            one.length = length
        self.prefixes.asked += len(one.text)
        one.placed, one.version = True, self._version()
        return True

    def _beginnings(self, row: int) -> Iterable[tuple[int, _Sequence]]:
        """Rows before `row` that the present weights read, with its adapter; of each prompt the one that has
        most of it."""
        version, found = self._version(), dict[tuple[int, ...], tuple[int, _Sequence]]()
        for other_row, other in enumerate(self._rows[:row]):
            if other.adapter is self._rows[row].adapter and (not other.placed or other.version == version):
                kept = found.setdefault(other.text, (other_row, other))
                if other.length > kept[1].length:
                    found[other.text] = (other_row, other)
        return found.values()

    def _choose(self, rows: list[int], logits_BV: torch.Tensor) -> list[Event]:
        """Choose the next token of rows, in ascending order; sequences that end leave."""
        events = []
        for row, token in zip(rows, choose(logits_BV, [self._rows[row] for row in rows]), strict=True):
            one = self._rows[row]
            one.ids.append(token.id)
            reason: Literal["stop", "length"] | None = None
            if token.id in one.ends:
                reason = "stop"
            elif len(one.ids) == one.sampling.max_tokens:
                reason = "length"
            events.append(Event(one.handle, token.id, token.logprob, reason, token.top))
        for event, row in reversed(list(zip(events, rows, strict=True))):
            if event.finish_reason:
                self._leave(row)
        return events

    def _leave(self, row: int) -> None:
        """Free a row: the last running sequence moves into it, the last row of all into that one's."""
        self._keep(row)
        if row < self._running:
            self._running -= 1
            self._move(self._running, row)
            row = self._running
        self._move(len(self._rows) - 1, row)
        self._rows.pop()

    def _keep(self, row: int) -> None:
        """Keep the positions of a sequence that leaves, or as many as the limit has room for."""
        one = self._rows[row]
        if not self.prefixes.limit or not one.placed or one.version != self._version():
            return
        room = self.prefixes.limit // self._decoder.bytes_per_position
        ids = (*one.prompt, *one.ids)[: min(one.length, room)]
        if not self.prefixes.covers(ids, one.version, _number(one)):
            kept = self._decoder.kept(row, len(ids))
            self.prefixes.keep(Prefix(ids, one.version, kept, _number(one)))

    def _move(self, source: int, target: int) -> None:
        if source != target:
            self._decoder.move(source, target)
            self._rows[target] = self._rows[source]


def _number(one: _Sequence) -> int:
    return one.adapter.number if one.adapter else 0


def _repeats_last(sequences: list[_Sequence]) -> list[_Sequence]:
    """The first sequence of each prompt before all that repeat one, which will be copied."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    texts = [(_number(one), one.text) for one in sequences]
    first = [text not in seen and not seen.add(text) for text in texts]  # type: ignore[func-returns-value]
    return [
        one for repeat in (False, True) for one, new in zip(sequences, first, strict=True) if new != repeat
    ]


def _alike(ids: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """Rows with similar numbers of ids together, which need little padding."""
    parts: list[list[int]] = []
    for row in sorted(ids, key=lambda row: -len(ids[row])):
        widest = len(ids[parts[-1][0]]) if parts else 0
        if parts and widest - len(ids[row]) <= max(PADDING, widest // 4):
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts
