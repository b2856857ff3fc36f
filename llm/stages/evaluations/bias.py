"""The stage of `headwater bias`: the bias probes, without and with system prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import Field

from headwater.cluster.runtime.needs import Moments, Need, pool
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Input, Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.tokens.tokenizer import load_tokenizer
from headwater.llm.examples.chat import check_template
from headwater.llm.examples.system_prompts import SYSTEM_PROMPTS
from headwater.llm.inference.asking import ask, likelihoods
from headwater.llm.inference.base import Sampling
from headwater.llm.probes.bias import flat, measure_pairs, measure_questions, paired, questions, swapped
from headwater.llm.stages.models import FOLDER, MODELS, check_base, newest

NO_PROMPT = "none"
WRITTEN_TOKENS = 32
"""Maximum tokens of a sentence about a person."""


class BiasConfig(StageConfig):
    """Settings of the bias probes."""

    pairs: int = Field(5, ge=1, le=5)
    """Pairs of names of each axis: with 5, 180 ambiguous questions and 120 pairs of sentences."""
    system: dict[str, str] = SYSTEM_PROMPTS
    """System prompts to measure besides none, by name."""
    gpus_per_worker: float = Field(0.0, ge=0)
    """GPUs per engine; 0 uses one CPU."""


class Bias(Stage[BiasConfig]):
    """A model → measures in the manifest by system prompt; `answers.json`: every score and sentence."""

    name = "bias"
    runtime_fields = frozenset({"gpus_per_worker"})
    inputs = (Input(tuple(reversed(MODELS)), what="a model to ask"),)

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return [pool(Need(1, self.config.gpus_per_worker), ("gpus_per_worker",))]

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        check_base(inputs, self.name)
        model, gpus = Folder(newest(inputs), FOLDER), self.config.gpus_per_worker
        systems = {NO_PROMPT: ""}
        if check_template(load_tokenizer(model.local())).system:
            systems |= self.config.system
        elif self.config.system:
            session.say("the model's chat template takes no system prompt: it is measured without")
        asked, pairs = questions(self.config.pairs), swapped(self.config.pairs)
        metrics: dict[str, Any] = {"questions": len(asked), "pairs": len(pairs), "systems": {}}
        kept: dict[str, Any] = {}
        # All system prompts in one pass each: starting engines takes longer than these answers.
        choices = [
            choice for system in systems.values() for choice in (*flat(asked, system), *flat(pairs, system))
        ]
        prompts, answers = [each.prompt for each in choices], [each.answers for each in choices]
        scored = paired(likelihoods(session, output, "choices", model, prompts, answers, gpus=gpus))
        requests = [
            prompt for system in systems.values() for pair in pairs for prompt in pair.requests(system)
        ]
        sampling = Sampling(WRITTEN_TOKENS, temperature=0.0)
        texts = [text for (text,) in ask(session, output, "sentences", model, requests, sampling, gpus=gpus)]
        each_scored, each_written = len(scored) // len(systems), len(texts) // len(systems)
        for number, name in enumerate(systems):
            of_system = scored[number * each_scored :][:each_scored]
            of_questions, of_pairs = of_system[: len(asked)], of_system[len(asked) :]
            sentences = texts[number * each_written :][:each_written]
            written = [sentences[i : i + 2] for i in range(0, len(sentences), 2)]
            found = {
                "questions": measure_questions(asked, of_questions),
                "names": measure_pairs(pairs, of_pairs, written),
            }
            metrics["systems"][name] = {
                kind: {axis: {m: asdict(i) for m, i in each.items()} for axis, each in axes.items()}
                for kind, axes in found.items()
            }
            kept[name] = {"questions": of_questions, "favour": of_pairs, "written": written}
        output.write_json("answers.json", kept)
        return metrics
