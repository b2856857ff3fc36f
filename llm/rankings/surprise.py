"""How unlikely a model finds answers: those of a candidate that has left all that the judge can judge."""

from __future__ import annotations

from collections.abc import Sequence

from headwater.cluster.storage.artifact import Folder
from headwater.llm.examples.chat import encode_answer, encode_prompt
from headwater.llm.inference import load_engine
from headwater.llm.rankings.judge import Judged


def surprises(model: Folder, *answers: Sequence[Judged]) -> list[float]:
    """For each list of answers their mean negative log-likelihood, in nats per token, at temperature 1.

    The end of a turn does not count: an answer that was cut at its limit has none. An answer of more than
    half of the context is cut there; the prompt is shortened to leave room for it. 0 without answers.
    """
    engine = load_engine(model.local(), threads=1)
    found = []
    for some in answers:
        given = [
            encode_answer(engine.tokenizer, each.answer, cut=True)[: engine.context // 2] for each in some
        ]
        prompts = [
            encode_prompt(engine.tokenizer, each.prompt, engine.context - len(ids))
            for each, ids in zip(some, given, strict=True)
        ]
        logprobs = engine.score(prompts, given)
        found.append(-sum(map(sum, logprobs)) / max(1, sum(map(len, logprobs))))
    return found
