"""Batch worker: reads the lines of a unit, answers them in batches, writes answers and errors.

Answers depend only on the lines and the settings, not on the number of workers or restarts: a request
without a seed gets one derived from its custom_id, each prompt has its own random stream, and prompts are
batched only within their unit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem
from headwater.llm.examples.chat import stop_ids
from headwater.llm.inference import device_of, load_engine
from headwater.llm.inference.backends import Backend, Quantize
from headwater.llm.inference.base import Completion, Engine, Sampling
from headwater.llm.rows.permutation import derived_seed
from headwater.serving.answers.answer import checked_prompt
from headwater.serving.answers.events import Finished
from headwater.serving.answers.text_stream import TextStream
from headwater.serving.answers.token_text import spoken
from headwater.serving.api.openai import chat_answers as out
from headwater.serving.batch.requests import (
    Refusal,
    Request,
    answer_record,
    error_record,
    read_request,
    too_long,
)
from headwater.serving.errors import ApiError

ANSWERS, ERRORS = "answers", "errors"
"""Folders of the work in progress, with one file per unit."""


class BatchWorker:
    """Answers units with an engine that is loaded once per actor."""

    def __init__(
        self,
        source: str,
        model: Artifact,
        output: Artifact,
        max_tokens: int,
        batch_size: int,
        gpus: float = 0.0,
        backend: Backend = "torch",
        quantize: Quantize = "none",
    ) -> None:
        self._source, self._output = source, output
        self._max_tokens, self._batch_size = max_tokens, batch_size
        self._engine = load_engine(
            model.location, device=device_of(gpus), threads=1, backend=backend, quantize=quantize
        )

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        lines = [too_long(unit["line"])] if unit["too_long"] else self._read(unit)
        requests = [line for line in lines if isinstance(line, Request)]
        results = [*lines, *complete(self._engine, requests, self._max_tokens, self._batch_size)]
        answers = [result for result in results if isinstance(result, dict)]
        refusals = [result for result in results if isinstance(result, Refusal)]
        refusals.sort(key=lambda refusal: refusal.line)
        self._write(ANSWERS, unit, answers)
        self._write(ERRORS, unit, [error_record(refusal) for refusal in refusals])
        used = [answer["response"]["body"]["usage"] for answer in answers]
        return {
            "answers": len(answers),
            "errors": len(refusals),
            "prompt_tokens": sum(one["prompt_tokens"] for one in used),
            "completion_tokens": sum(one["completion_tokens"] for one in used),
        }

    def _read(self, unit: dict[str, Any]) -> list[Request | Refusal]:
        fs, path = filesystem(self._source)
        with fs.open_input_file(path) as stream:
            stream.seek(unit["start"])
            data = stream.read(unit["end"] - unit["start"])
        repeated = frozenset(unit["duplicates"])
        return [
            read_request(content, number, repeated=number in repeated)
            for number, content in enumerate(data.split(b"\n"), start=unit["line"])
            if content.strip()
        ]

    def _write(self, folder: str, unit: dict[str, Any], records: list[dict[str, Any]]) -> None:
        if records:
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            self._output.write_bytes(f"{folder}/{unit['unit']}.jsonl", text.encode())


@dataclass(frozen=True)
class _Draft:
    """One choice of one request, to be completed."""

    request: int
    choice: int
    ids: list[int]
    sampling: Sampling
    seed: int


def complete(
    engine: Engine, requests: Sequence[Request], max_tokens: int, batch_size: int
) -> Iterator[dict[str, Any] | Refusal]:
    """Yield the output record of each request, in order, or a Refusal if its prompt fills the context."""
    drafts: list[_Draft] = []
    refused: dict[int, Refusal] = {}
    for number, request in enumerate(requests):
        try:
            drafts += _drafts(engine, number, request, max_tokens)
        except ApiError as error:
            refused[number] = Refusal(request.line, request.custom_id, error, in_body=True)
    completions = _generate(engine, drafts, batch_size)
    prompts = {draft.request: len(draft.ids) for draft in drafts}
    for number, request in enumerate(requests):
        if number in refused:
            yield refused[number]
        else:
            wanted = [completions[number, choice] for choice in range(request.body.n or 1)]
            yield _answer(engine, request, wanted, prompts[number])


def _drafts(engine: Engine, number: int, request: Request, max_tokens: int) -> list[_Draft]:
    body = request.body
    ids = checked_prompt(engine, [message.plain() for message in body.messages], 1)
    wanted = body.chat_sampling(max_tokens, 0.0)
    sampling = replace(wanted, max_tokens=min(wanted.max_tokens, engine.context - len(ids)), seed=None)
    seed = _seed(request.custom_id) if body.seed is None else body.seed
    return [
        _Draft(number, choice, ids, sampling, derived_seed(seed, choice))  # as at the endpoint
        for choice in range(body.n or 1)
    ]


def _seed(custom_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(custom_id.encode(), digest_size=6).digest())


def _generate(engine: Engine, drafts: Sequence[_Draft], batch_size: int) -> dict[tuple[int, int], Completion]:
    """Complete drafts in batches of equal sampling settings and similar prompt length."""
    groups: dict[Sampling, list[_Draft]] = {}
    for draft in drafts:
        groups.setdefault(draft.sampling, []).append(draft)
    done: dict[tuple[int, int], Completion] = {}
    for sampling, group in groups.items():
        group.sort(key=lambda draft: len(draft.ids))
        for start in range(0, len(group), batch_size):
            batch = group[start : start + batch_size]
            seeds = [draft.seed for draft in batch]
            completions = engine.generate([draft.ids for draft in batch], sampling, seeds)
            for draft, completion in zip(batch, completions, strict=True):
                done[draft.request, draft.choice] = completion
    return done


def _answer(
    engine: Engine, request: Request, completions: list[Completion], prompt_tokens: int
) -> dict[str, Any]:
    body, choices, tokens = request.body, [], 0
    ends = () if body.ignore_eos else stop_ids(engine.tokenizer)
    for number, completion in enumerate(completions):
        stream = TextStream(engine.tokenizer, ends, body.stops())
        text = "".join(stream.read(completion.tokens))
        end = Finished(number, stream.finish_reason, stream.tokens, token_ids=stream.ids)
        said = spoken(engine.tokenizer, stream.said()) if body.logprobs else None
        choices.append(out.choice(text, end, said, ids=bool(body.return_token_ids)))
        tokens += stream.tokens
    return answer_record(request, choices, prompt_tokens, tokens)
