"""Own files in the stages: what is trained on, held out, weighed, skipped and traced."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.tables import read_table
from headwater.llm.examples.conversations import HELDOUT_SHARE
from headwater.llm.examples.encoded import EncodedExamples, write_examples
from headwater.llm.examples.own_data.reading import split_of_record
from headwater.llm.examples.own_data.source import DataSource
from headwater.llm.rows.order import ShuffledOrder
from headwater.llm.stages import sft
from headwater.llm.stages.data.own_data import example_order, report
from headwater.llm.stages.data.pair_batches import COLUMNS, SIDES, PairBatches
from headwater.llm.stages.data.preference_pairs import pair_order, prepare_pairs
from headwater.llm.stages.dpo import AnswerBatches, Dpo, DpoConfig
from headwater.llm.stages.reward import Reward, RewardConfig
from headwater.llm.stages.rl import Rl, RlConfig
from headwater.llm.stages.sft import ConversationBatches, ConversationEncoder, Sft, SftConfig
from headwater.llm.stages.trace import is_held_out, reading
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.examples.own_data.test_formats import json_lines
from tests.llm.models import save_model

PAD = int(chat_tokenizer().pad_token_id)


def talks(path: Path, count: int, answer: str = "Well") -> Path:
    rows = [{"instruction": f"Question {n}?", "output": f"{answer} {n}."} for n in range(count)]
    return json_lines(path, rows)


def pairs(path: Path, count: int, better: str = "Well") -> Path:
    rows = [{"prompt": f"Question {n}?", "chosen": f"{better} {n}.", "rejected": "No."} for n in range(count)]
    return json_lines(path, rows)


@pytest.mark.parametrize("stage", ["sft", "dpo", "reward", "rl"])
def test_files_without_a_usable_format_are_refused_before_anything_runs(stage: str, tmp_path: Path) -> None:
    kinds: dict[str, Any] = {
        "sft": (Sft, SftConfig, "data"),
        "dpo": (Dpo, DpoConfig, "data"),
        "reward": (Reward, RewardConfig, "data"),
        "rl": (Rl, RlConfig, "prompts"),
    }
    kind, config, key = kinds[stage]

    def check(**source: Any) -> None:
        kind(config.model_validate({key: [{"files": [str(tmp_path / "own.jsonl")]} | source]})).check()

    pairs(tmp_path / "own.jsonl", 3)
    check()
    with pytest.raises(HeadwaterError, match=r"own\.jsonl: no column `question`"):
        check(columns={"prompt": "question"})
    (tmp_path / "own.jsonl").write_text('{"title": "a"}\n')
    with pytest.raises(HeadwaterError, match=r"own\.jsonl: no known format has these columns: title"):
        check()
    rows = [{"instruction": "Why?", "output": "So."}, {"prompt": "Why?", "completion": "So."}]
    json_lines(tmp_path / "own.jsonl", rows)
    with pytest.raises(HeadwaterError, match=r"own\.jsonl: the file mixes 2 formats"):
        check()


def encoded(
    tmp_path: Path, config: SftConfig, output: Artifact, session: Session | None = None
) -> list[dict[str, Any]]:
    encode = ConversationEncoder(config, Artifact("/nowhere"), save_model(tmp_path / "start"), output)
    return [encode(unit) for unit in sft._units(Artifact("/nowhere"), config)]


def test_own_conversations_are_encoded_with_their_place_and_a_tenth_is_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sft, "CHUNK", 70)  # several files of examples
    path = talks(tmp_path / "own.jsonl", 300)
    config = SftConfig.model_validate({"make": [], "data": [str(path)], "batch": 4})
    output = Artifact(str(tmp_path / "sft"))
    (counts,) = encoded(tmp_path, config, output)
    assert (counts["format"], counts["used"], counts["skipped"]) == ("alpaca", 300, {})
    found: dict[str, list[str]] = {}
    for split in ("train", "heldout"):
        examples = EncodedExamples(output, split)
        assert len(examples) == counts[split]
        found[split] = [examples.origins(number)[0] for number in range(len(examples))]
        for number, origin in enumerate(found[split]):
            line = int(origin.rpartition(":")[2])
            text = chat_tokenizer().decode(examples.gather("ids", np.array([number]))[0])
            assert f"Question {line - 1}?" in text and f"Well {line - 1}." in text
    assert sorted(found["train"] + found["heldout"]) == sorted(f"{path}:{n}" for n in range(1, 301))
    assert abs(len(found["heldout"]) / 300 - HELDOUT_SHARE) < 0.06
    asked = reading("sft", config, {}, output)
    assert asked.visits(found["train"][0], 100) and not asked.visits(found["heldout"][0], 100)
    assert is_held_out(output, found["heldout"][0]) and not is_held_out(output, found["train"][0])


def test_the_split_does_not_depend_on_the_folder() -> None:
    for number in range(100):
        assert split_of_record(f"/a/own.jsonl:{number}") == split_of_record(f"s3://b/own.jsonl:{number}")


def test_what_is_skipped_is_listed_with_its_place(
    tmp_path: Path, here: Session, capfd: pytest.CaptureFixture[str]
) -> None:
    path = json_lines(
        tmp_path / "own.jsonl",
        [
            {"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Yes."}]},
            {"messages": [{"role": "robot", "content": "Hm?"}]},
            {"messages": [{"role": "user", "content": "A?"}]},
        ],
    )
    with path.open("a") as file:
        file.write("{no json\n")
    config = SftConfig.model_validate({"make": [], "files": [str(path)], "data": [str(path)]})
    output = Artifact(str(tmp_path / "sft"))
    units = encoded(tmp_path, config, output)
    for counts, unit in zip(units, ("file-00000", "own-000-00000"), strict=True):
        assert counts["skipped"] == {"unknown_role": 1, "no_answer": 1, "broken_line": 1}
        rows = read_table(output, f"unread/{unit}.parquet").to_pylist()
        assert [(row["file"], row["position"], row["reason"]) for row in rows] == [
            (str(path), "line 2", "unknown_role"),
            (str(path), "line 3", "no_answer"),
            (str(path), "line 4", "broken_line"),
        ]
    told: list[str] = []
    here.say = told.append  # type: ignore[method-assign]
    metrics = report(here, "own conversations", units)
    assert told[0] == f"own conversations: format messages, 2 of {path} and 1 more file"
    assert told[1].startswith("own conversations: skipped broken_line 2, no_answer 2, unknown_role 2")
    assert f"{path}, line 2: unknown_role, message 1 has the role 'robot'" in told[2]
    assert metrics["skipped"]["unknown_role"] == 2 and len(metrics["problems"]) == 5


def test_a_conversation_whose_answer_does_not_begin_within_the_length_is_skipped_and_named(
    tmp_path: Path,
) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Yes."}] * n}
        for n in (1, 30)
    ]
    path = json_lines(tmp_path / "own.jsonl", rows[1:] + rows[:1])
    config = SftConfig.model_validate({"make": [], "data": [str(path)], "max_length": 4})
    output = Artifact(str(tmp_path / "sft"))
    (counts,) = encoded(tmp_path, config, output)
    assert counts["skipped"] == {"too_long": 2} and counts["used"] == 0
    assert [problem["position"] for problem in counts["problems"]] == ["line 1", "line 2"]


def examples_of(output: Artifact, files: dict[str, int]) -> EncodedExamples:
    for name, count in files.items():
        examples = [{"ids": [1], "mask": [1]} for _ in range(count)]
        origins = [[f"{name}:{number}"] for number in range(count)]
        write_examples(output, f"train/{name}.arrow", examples, ("ids", "mask"), origins=origins)
    return EncodedExamples(output, "train")


def test_a_weight_is_how_often_a_sources_conversations_are_seen(tmp_path: Path) -> None:
    output = Artifact(str(tmp_path))
    files = {
        "00000-made": 40,
        "own-000-00000": 30,
        "own-000-00001": 10,
        "own-001-00002": 0,
        "own-002-00003": 8,
    }
    examples = examples_of(output, files)
    data = [DataSource(files=("a",), weight=weight) for weight in (3.0, 1.0, 0.5)]
    order = example_order(examples, data, 16, seed=1)
    steps = 2000
    seen = np.bincount(np.concatenate([order.indices(step) for step in range(steps)]), minlength=88)
    once = steps * 16 / (40 + 3 * 40 + 0.5 * 8)
    assert seen[:40].mean() == pytest.approx(once, rel=0.02)
    assert seen[40:80].mean() == pytest.approx(3 * once, rel=0.02)
    assert seen[80:].mean() == pytest.approx(once / 2, rel=0.02)
    assert seen.min() > 0
    config = SftConfig(batch=16, seed=1, data=tuple(data))
    asked = reading("sft", config, {}, output)
    source = ConversationBatches(examples, 16, 1, PAD, order)
    assert [part.origin for part in asked.parts(5)] == [line.split(" (")[0] for line in source.describe(5)]


@pytest.mark.parametrize("weights", [None, (1.0, 1.0), (2.0, 2.0)])
def test_equal_weights_are_no_weights(weights: tuple[float, ...] | None, tmp_path: Path) -> None:
    examples = examples_of(Artifact(str(tmp_path)), {"own-000-00000": 3, "own-001-00001": 4})
    data = [DataSource(files=("a",), weight=weight) for weight in weights] if weights else None
    assert example_order(examples, data, 2, seed=1) == ShuffledOrder(7, 2, 1)


def test_the_key_is_as_before_without_data_and_follows_the_files_with_it(
    tmp_path: Path, here: Session
) -> None:
    path = talks(tmp_path / "own.jsonl", 2)
    for stage, config in ((Sft, SftConfig), (Reward, RewardConfig), (Dpo, DpoConfig)):
        assert "data" in stage.off_fields
        assert "data" not in stage(config()).fingerprint(here)
        given = stage(config.model_validate({"data": [str(path)]}))
        before = given.key({}, given.fingerprint(here))
        assert before == given.key({}, given.fingerprint(here))
        talks(path, len(path.read_text().splitlines()) + 1)
        assert given.key({}, given.fingerprint(here)) != before
    missing = Reward(RewardConfig.model_validate({"data": ["nowhere.jsonl"]}))
    with pytest.raises(HeadwaterError, match=r"nowhere.jsonl: no such file .*reward\.data"):
        missing.fingerprint(here)


def prepared(stage: Any, output: Artifact, session: Session) -> tuple[dict[str, int], dict[str, Any]]:
    """The pairs of a stage whose inputs have no corpus; the fine-tuned model is not asked."""
    return prepare_pairs(stage, {"sft": Artifact("/nowhere")}, output, chat_tokenizer(), session)


NO_CORPUS = {"corpus_pairs": 0, "model_pairs": 0}


def test_own_pairs_need_no_corpus_and_a_tenth_is_held_out(tmp_path: Path, here: Session) -> None:
    path = pairs(tmp_path / "own.jsonl", 200)
    with path.open("a") as file:
        file.write('{"prompt": "Same?", "chosen": "A", "rejected": "A"}\n')
    stage = Reward(RewardConfig.model_validate(NO_CORPUS | {"data": [str(path)]}))
    output = Artifact(str(tmp_path / "reward"))
    counts, own = prepared(stage, output, here)
    assert counts["train/own"] + counts["heldout/own"] == 200 and counts["train/people"] == 0
    assert abs(counts["heldout/own"] / 200 - HELDOUT_SHARE) < 0.06
    assert own["skipped"] == {"equal_answers": 1}
    assert own["problems"][0]["position"] == "line 201"
    assert read_table(output, "unread/own-00000.parquet").num_rows == 1
    train = EncodedExamples(output, "train")
    for number in range(0, len(train), 29):
        line = int(train.origins(number)[0].rpartition(":")[2])
        for side, answer in (("chosen", f"Well {line - 1}."), ("rejected", "No.")):
            prompt, said = (
                chat_tokenizer().decode(train.gather(part, np.array([number]))[0])
                for part in ("prompt", side)
            )
            assert f"Question {line - 1}?" in prompt and said == f"{answer}<|im_end|>"
    assert prepared(stage, output, here) == (counts, own)  # a resumed stage knows what was skipped


def test_pairs_that_do_not_fit_are_skipped_and_named(tmp_path: Path, here: Session) -> None:
    path = pairs(tmp_path / "own.jsonl", 3)
    row = {"prompt": "Long?", "chosen": "It's raining again. " * 60, "rejected": "No."}
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    stage = Dpo(DpoConfig.model_validate(NO_CORPUS | {"data": [str(path)], "max_length": 60}))
    counts, own = prepared(stage, Artifact(str(tmp_path / "dpo")), here)
    assert sum(counts.values()) == 3 and own["skipped"] == own["left_out"] == {"too_long": 1}
    assert own["problems"][0]["position"] == "line 4"


def test_sources_of_pairs_have_weights(tmp_path: Path, here: Session) -> None:
    files = [pairs(tmp_path / f"{name}.jsonl", 40, name) for name in ("first", "second")]
    data = [{"files": str(files[0]), "weight": 3}, str(files[1])]
    config = {"data": data, "batch": 8, "rankings": False} | NO_CORPUS
    stage = Reward(RewardConfig.model_validate(config))
    output = Artifact(str(tmp_path / "reward"))
    counts, _ = prepared(stage, output, here)
    assert {name.partition("/")[2] for name in counts} == {"own-000", "own-001"}
    examples = EncodedExamples(output, "train")
    order = pair_order(examples, stage.config)
    seen: collections.Counter[str] = collections.Counter()
    for step in range(2000):
        for row in order.indices(step).tolist():
            seen[Path(examples.origins(row)[0].rpartition(":")[0]).stem] += 1
    share = 3 * counts["train/own-000"] / (3 * counts["train/own-000"] + counts["train/own-001"])
    assert seen["first"] / seen.total() == pytest.approx(share, abs=0.01)
    named = PairBatches(examples, order, PAD).describe(3)
    parts = reading("reward", stage.config, {}, output).parts(3)
    assert [part.origin for part in parts] == [line.split(" (")[0] for line in named]


def test_reference_scores_follow_the_pairs_of_weighted_sources(tmp_path: Path) -> None:
    output = Artifact(str(tmp_path))
    for number, count in ((0, 2), (1, 3)):
        name = f"train/own-{number:03d}"
        rows = [{"prompt": [10 + number], "chosen": [20], "rejected": [30]} for _ in range(count)]
        write_examples(output, f"{name}.arrow", rows, COLUMNS)
        scores = [{"chosen": [float(-number)], "rejected": [0.0]} for _ in range(count)]
        unit = f"reference/train/{name.replace('/', '-')}-000000000.arrow"
        write_examples(output, unit, scores, SIDES, pa.float64())
    config = DpoConfig(data=(DataSource(files=("a",), weight=2), DataSource(files=("b",))))
    batches = AnswerBatches(output, "train", None, PAD, config)
    arrays = batches.arrays(np.arange(5))
    assert (arrays["chosen"][:, 0] - 10 == -arrays["reference_chosen"]).all()


def test_without_any_pair_the_stage_says_how_to_give_some(tmp_path: Path, here: Session) -> None:
    stage = Reward(RewardConfig.model_validate(NO_CORPUS))
    with pytest.raises(
        HeadwaterError, match=r"reward: there are no preference pairs to train on .give own ones"
    ):
        prepared(stage, Artifact(str(tmp_path / "reward")), here)
    with pytest.raises(HeadwaterError, match=r"documents with titles.*reward\.corpus_pairs. and"):
        Reward(RewardConfig()).input_names(["base"])
