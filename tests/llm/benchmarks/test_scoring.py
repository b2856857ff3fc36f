"""Answers equal those of plain forward passes, in the items' order, on any number of units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.benchmarks import scoring
from headwater.llm.benchmarks.scoring import Scorer, answer, until
from headwater.llm.benchmarks.tasks import TASKS, Item
from headwater.llm.inference import Sampling
from headwater.llm.rl.rewards import sandbox
from tests.llm.benchmarks import data
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import save_model, small_engine, small_model

RECORDS: dict[str, list[dict[str, Any]]] = {
    "arc_easy": data.ARC,
    "winogrande": data.WINOGRANDE,
    "sciq": data.SCIQ,
}
ITEMS = {name: [TASKS[name].item(record) for record in rows] for name, rows in RECORDS.items()}


def reference(context: str, continuation: str) -> float:
    """Log-likelihood by one forward pass of transformers over one text."""
    tokenizer, model = chat_tokenizer(), small_model()
    before = tokenizer.encode(context.rstrip())
    whole = tokenizer.encode(context + continuation)
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    places = torch.arange(len(before) - 1, len(whole) - 1)
    return float(logprobs[places, torch.tensor(whole[len(before) :])].sum())


def test_scores_equal_one_plain_pass_per_choice(
    tmp_path: Path, here: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "ITEMS_PER_UNIT", 1)
    found = answer(here, Artifact(str(tmp_path / "out")), "model", save_model(tmp_path), ITEMS)
    for name, items in ITEMS.items():
        for item, scores in zip(items, found[name].answers, strict=True):
            np.testing.assert_allclose(scores, [reference(*pair) for pair in item.pairs], atol=1e-4)
    assert all(one.seconds > 0 and one.shortened == 0 for one in found.values())


def test_a_context_that_choices_share_is_counted_once(tmp_path: Path, here: Session) -> None:
    found = answer(here, Artifact(str(tmp_path / "out")), "model", save_model(tmp_path), ITEMS)
    encode = chat_tokenizer().encode
    shared = sum(
        len(encode(item.pairs[0][0])) + sum(len(encode(text)) for _, text in item.pairs)
        for item in ITEMS["arc_easy"]
    )
    apart = sum(len(encode("".join(pair))) for item in ITEMS["winogrande"] for pair in item.pairs)
    assert (found["arc_easy"].tokens, found["winogrande"].tokens) == (shared, apart)


def test_finished_units_are_not_scored_again(
    tmp_path: Path, here: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, output = save_model(tmp_path), Artifact(str(tmp_path / "out"))
    first = answer(here, output, "model", model, ITEMS)
    monkeypatch.setattr(scoring, "load_engine", None)  # a scorer could not be made
    assert answer(here, output, "model", model, ITEMS) == first


def test_a_word_counts_if_it_is_the_most_likely_one_token_for_token(tmp_path: Path, here: Session) -> None:
    context, engine = "The council voted", small_engine(2)
    (likely,) = engine.generate([engine.tokenizer.encode(context)], Sampling(max_tokens=2, temperature=0))
    word = str(engine.tokenizer.decode(likely.ids))
    assert engine.tokenizer.encode(context + word)[-2:] == likely.ids, "the word is encoded as it was decoded"
    items = [
        Item(((context, text),), 0, "") for text in (word, " bridge on the old bridge", word[:-1] + " x")
    ]
    output = Artifact(str(tmp_path / "out"))
    found = answer(here, output, "model", save_model(tmp_path, small_model(2)), {"lambada_openai": items})
    assert found["lambada_openai"].answers == [True, False, False]


def test_an_answer_is_generated_greedily_and_ends_before_the_next_question(
    tmp_path: Path, here: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "ANSWER_TOKENS", 12)
    items = [TASKS["gsm8k_cot_zeroshot"].item(record) for record in data.GSM8K]
    output = Artifact(str(tmp_path / "out"))
    found = answer(here, output, "model", save_model(tmp_path), {"gsm8k_cot_zeroshot": items})
    engine = small_engine()
    prompt = engine.tokenizer.encode(items[0].pairs[0][0])
    (expected,) = engine.generate([prompt], Sampling(max_tokens=12, temperature=0))
    decoded = engine.tokenizer.decode(expected.ids, skip_special_tokens=True)
    assert found["gsm8k_cot_zeroshot"].answers == [until(decoded)]
    assert until(" 3 stones.\n\nQ: And now?") == " 3 stones.\n\n" and until("4</s>Q:") == "4"


@pytest.mark.parametrize(
    ("written", "kept", "passes"),
    [
        ("    return 2 * x\n\n\nprint(double(1))", "    return 2 * x\n\n", True),
        ("    return 2 * x\n# done\nraise", "    return 2 * x", True),
        ("    return x * x\n", "    return x * x\n", False),
        ("    import socket, sys\n    sys.exit(0)", "    import socket, sys\n    sys.exit(0)", False),
        ("    while True:\n        pass", "    while True:\n        pass", False),
    ],
)
def test_code_ends_where_lm_eval_ends_it_and_runs_with_its_tests(
    monkeypatch: pytest.MonkeyPatch, written: str, kept: str, passes: bool
) -> None:
    monkeypatch.setattr(scoring, "LIMITS", sandbox.Limits(seconds=3.0))
    item = TASKS["humaneval"].item(data.HUMANEVAL[0])
    scorer = Scorer.__new__(Scorer)
    texts = {"answers": [until(written, scoring.CODE_ENDS)], "tokens": 1, "shortened": 0}
    monkeypatch.setattr(scorer, "_texts", lambda *given: texts)
    assert scorer._programs([list(item.pairs)], [item.reference])["answers"] == [
        {"text": kept, "passed": passes}
    ]


def test_a_model_writes_code_until_an_end_and_is_judged(
    tmp_path: Path, here: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "CODE_TOKENS", 40)
    engine, items = small_engine(), [TASKS["humaneval"].item(data.HUMANEVAL[0])]
    prompt = engine.tokenizer.encode(items[0].pairs[0][0])
    (expected,) = engine.generate([prompt], Sampling(max_tokens=40, temperature=0))
    decoded = engine.tokenizer.decode(expected.ids, skip_special_tokens=True)
    end = decoded[3:5]  # as good as any
    monkeypatch.setattr(scoring, "CODE_ENDS", (end,))
    monkeypatch.setattr(scoring, "LOOK_EVERY", 2)
    found = answer(
        here, Artifact(str(tmp_path / "out")), "model", save_model(tmp_path), {"humaneval": items}
    )["humaneval"]
    assert found.answers == [{"text": until(decoded, (end,)), "passed": False}]
    assert found.tokens < len(prompt) + 40, "it went on after the end"


def test_a_context_that_is_too_long_loses_its_beginning(tmp_path: Path, here: Session) -> None:
    tail = "The council voted on Tuesday to rebuild the old bridge"
    items = [Item((("news " * 400 + tail, " again"),), 0, "", ("again",)), ITEMS["arc_easy"][0]]
    found = answer(here, Artifact(str(tmp_path / "out")), "model", save_model(tmp_path), {"arc_easy": items})
    engine = small_engine()
    ids = engine.tokenizer.encode(items[0].pairs[0][0] + " again")[-engine.context :]
    after = engine.tokenizer.encode(" again")
    (expected,) = engine.score([ids[: -len(after)]], [after])
    np.testing.assert_allclose(found["arc_easy"].answers[0], [sum(expected)], atol=1e-4)
    assert found["arc_easy"].shortened == 1
