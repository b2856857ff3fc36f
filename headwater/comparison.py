"""The measurements of a candidate beside the served model, for `headwater improve`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.llm.evaluation import grounded
from headwater.llm.examples.conversations import Conversation
from headwater.llm.examples.rankings import Ranking
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.prompt import with_sources
from headwater.llm.grounding.tasks import read_tasks
from headwater.llm.inference import Sampling
from headwater.llm.inference import pool as engines
from headwater.llm.rankings import gate, judge, probe
from headwater.llm.rankings.gate import Finding
from headwater.llm.rankings.surprise import surprises
from headwater.llm.stages.evaluations.evaluate import EvaluateConfig, bits_per_byte
from headwater.llm.stages.rl import tasks_of
from headwater.recipe import Recipe

SEED = 40_000_003
"""Seed of the compared answers; differs from all training seeds."""


@dataclass(frozen=True)
class Asked:
    """A held-out prompt, as the judge sees it and as the models do: with the passages for it."""

    prompt: Conversation
    shown: Conversation


@dataclass(frozen=True)
class Comparison:
    """Both models, what they are measured with, and the artifacts of the candidate's recipe."""

    recipe: Recipe
    session: Session
    artifacts: Mapping[str, Artifact]
    candidate: Folder
    served: Folder
    judge: Folder
    max_length: int
    """Tokens that the judge reads."""
    writes: bool
    """The endpoint writes from passages, so the models get those of a ranking."""

    def findings(self, held_out: Sequence[Ranking]) -> list[Finding]:
        """Win rate, bits per byte, citations and refusals; what the recipe has no data for is left out."""
        models = (self.candidate, self.served)
        found = self._wins(held_out)
        if "tokenize" in self.artifacts:
            text = self.artifacts["tokenize"], self.artifacts.get("pretrain")
            bits = [remotely(self.session, bits_per_byte, each, *text) for each in models]
            found.append(gate.check_bits(self.recipe.improve, *bits))
        if cited := self._citations():
            found.append(gate.check_citations(cited["candidate"], cited["served"]))
        requests = [[{"role": "user", "content": text}] for text in probe.REQUESTS]
        helped = [sum(not probe.refuses(a) for a in self._answers(each, requests)) for each in models]
        found.append(gate.check_safety(self.recipe.improve, len(requests), *helped))
        return found

    def _wins(self, held_out: Sequence[Ranking]) -> list[Finding]:
        asked = self._asked(held_out)
        shown = [each.shown for each in asked]
        candidate, served = (
            [
                judge.Judged(each.prompt, answer)
                for each, answer in zip(asked, self._answers(model, shown), strict=True)
            ]
            for model in (self.candidate, self.served)
        )
        scores = remotely(self.session, judge.scores, self.judge, candidate + served, self.max_length)
        return [
            gate.check_wins(scores[: len(asked)], scores[len(asked) :]),
            gate.check_surprise(
                self.recipe.improve, *remotely(self.session, surprises, self.served, candidate, served)
            ),
        ]

    def _asked(self, held_out: Sequence[Ranking]) -> list[Asked]:
        """The prompts of held-out rankings, then the recipe's own held-out prompts, each once."""
        prompts: dict[str, Asked] = {}
        for ranking in held_out:
            shown = ranking.prompt
            if self.writes and ranking.passages:
                shown = with_sources(shown, [Passage(**passage) for passage in ranking.passages])
            prompts.setdefault(json.dumps(ranking.prompt), Asked(ranking.prompt, shown))
        if self.recipe.rl is not None:
            for task in tasks_of(self.recipe.rl, self.artifacts)["heldout"]:
                prompts.setdefault(json.dumps(task.prompt), Asked(task.prompt, task.prompt))
        return list(prompts.values())[: self.recipe.improve.prompts]

    def _answers(self, model: Folder, prompts: Sequence[Conversation]) -> list[str]:
        settings = self.recipe.improve.max_new_tokens, self.recipe.serve.temperature
        label = "candidate" if model == self.candidate else "served"
        return engines.answer(self.session, label, model, prompts, Sampling(*settings, seed=SEED))

    def _citations(self) -> dict[str, Any]:
        if "grounded" not in self.artifacts:
            return {}
        config = self.recipe.evaluate or EvaluateConfig()
        tasks = read_tasks(self.artifacts["grounded"], "heldout")
        chosen = grounded.chosen(tasks, config.grounded_questions, config.unanswerable)
        models = {"candidate": self.candidate, "served": self.served}
        candidates = [grounded.Candidate(label, model) for label, model in models.items()]
        return grounded.answer_tasks(self.session, chosen, candidates).measures if chosen else {}


def remotely(session: Session, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that loads a model, in a process of the cluster."""
    import ray

    session.ray()
    return ray.get(ray.remote(num_cpus=1, max_retries=3)(function).remote(*arguments))
