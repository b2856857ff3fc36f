"""The parity gate: what passes, what is refused, what is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.inference import load_engine
from headwater.llm.inference.parity import BOUNDS, FILE, check, record, record_made
from headwater.llm.inference.torch_engine import TorchEngine
from headwater.llm.model.files.export import export
from tests.llm.models import foreign_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = Path(foreign_model(tmp_path, "llama").path("model"))
    record(made, load_engine(made))
    return made


def opened(folder: Path) -> TorchEngine:
    return TorchEngine.load(folder)


def test_the_engine_that_recorded_passes_and_a_record_says_what_was_asked(folder: Path) -> None:
    check(folder, opened(folder))
    content = json.loads((folder / FILE).read_text())
    assert len(content["ids"]) == 3
    assert [len(row) + 1 for row in content["logprobs"]] == [len(row) for row in content["ids"]]


def test_one_weight_that_changed_is_refused_with_the_difference(folder: Path) -> None:
    engine = opened(folder)
    with torch.no_grad():
        engine.model.lm_head.weight[7, 3] += 0.5
    with pytest.raises(HeadwaterError, match=r"differ .* nats in the mean .*allowed in float32: 0\.0001"):
        check(folder, engine)


def test_bf16_has_a_bound_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(folder)
    engine.model.bfloat16()
    check(folder, engine)
    monkeypatch.setitem(BOUNDS, "bfloat16", BOUNDS["float32"])
    with pytest.raises(HeadwaterError, match="allowed in bfloat16"):
        check(folder, engine)


def test_a_weight_that_is_not_a_number_is_refused(folder: Path) -> None:
    engine = opened(folder)
    with torch.no_grad():
        engine.model.lm_head.weight[7, 3] = float("nan")
    with pytest.raises(HeadwaterError, match="differ"):
        check(folder, engine)


@pytest.mark.parametrize("content", ["", "{}", '{"ids": [[1, 2]], "logprobs": [[0.1, 0.2]]}', '{"ids": []}'])
def test_a_damaged_record_is_named(folder: Path, content: str) -> None:
    (folder / FILE).write_text(content)
    with pytest.raises(HeadwaterError, match="cannot be read") as refused:
        check(folder, opened(folder))
    assert str(refused.value.where).endswith(FILE)


def test_a_model_without_a_record_passes(folder: Path) -> None:
    (folder / FILE).unlink()
    check(folder, opened(folder))


def test_a_model_is_recorded_when_it_is_made_and_a_classifier_is_not(tmp_path: Path) -> None:
    made = Path(foreign_model(tmp_path, "llama").path("model"))
    record_made(made)
    check(made, opened(made))
    (made / FILE).unlink()
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(
        json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]})
    )
    record_made(made)
    assert not (made / FILE).exists()


def test_an_export_in_another_precision_has_no_record(folder: Path) -> None:
    model = Artifact(str(folder.parent))
    assert (Path(export(model, str(folder.parent / "same"), "hf")) / FILE).is_file()
    assert not (Path(export(model, str(folder.parent / "other"), "hf", "bf16")) / FILE).exists()
