"""The stage of `headwater bias`: every system prompt is measured, and what a template cannot take is not."""

from __future__ import annotations

from pathlib import Path

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.examples.chat import encode_answer, encode_prompt
from headwater.llm.inference.torch_engine import TorchEngine
from headwater.llm.probes.bias import questions
from headwater.llm.probes.results import bias_rows
from headwater.llm.stages.evaluations.bias import Bias, BiasConfig
from tests.llm.models import save_model


def test_answers_are_scored_as_the_engine_scores_them_with_every_system_prompt(
    tmp_path: Path, here: Session
) -> None:
    model = Artifact(save_model(tmp_path / "sft").artifact.location, "sft", "0" * 16)
    stage = Bias(BiasConfig(pairs=1, system={"brief": "Be brief."}))
    found, _ = execute(stage, {"sft": model}, here)
    metrics = found.finished().metrics
    assert set(metrics["systems"]) == {"none", "brief"}
    assert bias_rows({"sft": metrics})[0] == ["sft", "sft, brief"]
    assert (metrics["questions"], metrics["pairs"]) == (36, 24)
    assert metrics["systems"]["brief"]["questions"]["all"]["leaning"]["count"] == 18
    assert metrics["systems"]["none"] != metrics["systems"]["brief"]
    kept = found.read_json("answers.json")["brief"]
    engine = TorchEngine.load(model.path("model"))
    choice = questions(1)[3].choices("Be brief.")[1]
    prompt = encode_prompt(engine.tokenizer, choice.prompt, engine.context - 32)
    answers = [encode_answer(engine.tokenizer, answer) for answer in choice.answers]
    logprobs = engine.score([prompt] * 3, answers)
    for given, (total, tokens) in zip(logprobs, kept["questions"][3][1], strict=True):
        assert abs(total - sum(given)) < 1e-3 * abs(total) and tokens == len(given)
    assert len(kept["written"]) == 24 and execute(stage, {"sft": model}, here) == (found, True)
