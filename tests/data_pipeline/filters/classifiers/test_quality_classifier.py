"""The quality classifier: held-out real text, metrics compared with their definitions, damaged files."""

from __future__ import annotations

import gzip
import json
import math
import random
import shutil
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.filters.classifiers import linear, training
from headwater.data_pipeline.filters.classifiers.linear import LinearModel
from headwater.data_pipeline.filters.classifiers.quality_classifier import QualityClassifierConfig
from headwater.data_pipeline.filters.classifiers.training import Examples, Table, TrainSettings
from headwater.data_pipeline.filters.filter import Measured
from headwater.data_pipeline.quality import QualityJob, check_output, train_model
from headwater.data_pipeline.sources.spec import Columns
from headwater.data_pipeline.verdict import Rejection, Scores, first_hit


def verdict(scores: Scores, config: QualityClassifierConfig) -> Rejection | None:
    return first_hit(scores, config.rules())


GOOD = [f"the river number {n} flows slowly past the old mill and the garden" for n in range(60)]
BAD = [f"click here buy now {n} cheap pills free offer subscribe login" for n in range(60)]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def trained(folder: Path, good: list[str], bad: list[str], **options: object) -> LinearModel:
    folder.mkdir(parents=True, exist_ok=True)
    inputs = write(folder / "good.jsonl", good), write(folder / "bad.jsonl", bad)
    job = QualityJob((inputs[0],), (inputs[1],), str(folder / "model"), settings=TrainSettings(**options))  # type: ignore[arg-type]
    train_model(job, lambda done, what: None, lambda total: lambda done, note: None)
    return LinearModel.load(job.output)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder."""
    folder = tmp_path_factory.mktemp("small")
    trained(folder, GOOD, BAD, held_out=0.3)
    return folder / "model"


@pytest.fixture(scope="module")
def pieces(shared_data: Path) -> dict[str, list[str]]:
    """Real texts of some 1,200 characters: books, and pages scraped from the web."""
    books = pq.read_table(shared_data / "text" / "books.parquet")["text"].to_pylist()
    pages = [json.loads(line)["text"] for line in (shared_data / "text" / "c4-300.jsonl").open()]
    return {
        "books": [book[start : start + 1200] for book in books for start in range(30_000, 60_000, 6_000)],
        "pages": [page[:1200] for page in pages],
    }


def test_books_and_scraped_pages_are_told_apart(tmp_path: Path, pieces: dict[str, list[str]]) -> None:
    card = trained(tmp_path, pieces["books"], pieces["pages"], held_out=0.2).card
    assert card.held_out["good"] > 80 and card.held_out["bad"] > 40
    assert card.held_out["auc"] > 0.97 and card.held_out["accuracy"] > 0.9
    at_half = card.held_out["thresholds"][4]
    assert at_half["threshold"] == 0.5 and at_half["precision"] > 0.9 and at_half["recall"] > 0.9


def test_text_in_disorder_is_told_from_text_of_the_same_words(
    tmp_path: Path, pieces: dict[str, list[str]]
) -> None:
    """Only word pairs can distinguish them."""
    generator = random.Random(4)
    shuffled = [" ".join(generator.sample(text.split(), len(text.split()))) for text in pieces["books"]]
    assert trained(tmp_path, pieces["books"], shuffled, held_out=0.2).card.held_out["auc"] > 0.97


def test_kinds_that_do_not_differ_are_not_told_apart(tmp_path: Path, pieces: dict[str, list[str]]) -> None:
    """Held-out accuracy is at chance, within three standard deviations."""
    books = sorted(pieces["books"], key=lambda text: text[::7])
    card = trained(tmp_path, books[::2], books[1::2], held_out=0.4).card
    good, bad = card.held_out["good"], card.held_out["bad"]
    spread = math.sqrt((good + bad + 1) / (12 * good * bad))
    assert abs(card.held_out["auc"] - 0.5) < 3 * spread + 0.05


def test_the_same_texts_in_another_order_and_other_files_give_the_same_weights(tmp_path: Path) -> None:
    first = trained(tmp_path / "a", GOOD, BAD, held_out=0.3)
    again = trained(tmp_path / "a", GOOD, BAD, held_out=0.3)
    turned = trained(tmp_path / "b", GOOD[::-1], BAD[30:] + BAD[:30], held_out=0.3)
    other = trained(tmp_path / "c", GOOD, BAD, held_out=0.3, seed=1)
    assert first.card == again.card
    assert first.card.weights_sha256 == turned.card.weights_sha256 != other.card.weights_sha256
    assert first.card.held_out == turned.card.held_out


def test_copies_of_a_text_are_on_one_side_of_the_split(tmp_path: Path) -> None:
    examples = Examples(tmp_path, TrainSettings())
    assert examples.add([*GOOD, "", "  ", *GOOD], good=True) == 2 * len(GOOD)
    table = examples.table()
    assert np.array_equal(table.hashes[: len(GOOD)], table.hashes[len(GOOD) :])
    assert len(np.unique(table.hashes)) == len(GOOD)


def test_every_kind_of_file_gives_the_same_examples(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for number, text in enumerate(GOOD):
        (tmp_path / "folder" / f"{number}.txt").write_text(text)
    with gzip.open(tmp_path / "good.jsonl.gz", "wt") as stream:
        stream.write("".join(json.dumps({"body": text}) + "\n" for text in GOOD))
    pq.write_table(pa.table({"body": GOOD}), tmp_path / "good.parquet")
    bad = tmp_path / "bad.jsonl"
    bad.write_text("".join(json.dumps({"body": text}) + "\n" for text in BAD))
    checksums = set()
    for name in ("folder", "good.jsonl.gz", "good.parquet"):
        columns = Columns(text="body")
        job = QualityJob(
            (str(tmp_path / name),), (str(bad),), str(tmp_path / "m"), columns, TrainSettings(held_out=0.3)
        )
        card = train_model(job, lambda done, what: None, lambda total: lambda done, note: None)
        assert card.training["good"]["texts"] == len(GOOD)
        checksums.add(card.weights_sha256)
    assert len(checksums) == 1


def test_the_step_keeps_what_scores_at_least_the_threshold(small: Path) -> None:
    config = QualityClassifierConfig(model=str(small))
    assert config.wanted and config.files == (str(small / "model.json"),)
    measure = config.measurer()

    def scores(text: str) -> Scores:
        found = measure(Measured(Document("", "", "", text), {}))
        assert isinstance(found, dict)
        return found

    good = scores("the old river flows past the garden and the mill")
    bad = scores("click here for a cheap offer, buy pills now")
    assert verdict(good, config) is None
    assert verdict(bad, config) == Rejection("low_score", bad["score"], 0.5)
    loose = config.model_copy(update={"min_score": bad["score"]})
    assert verdict(bad, loose) is None
    assert 0 <= float(scores("")["score"]) <= 1
    assert not QualityClassifierConfig().wanted and QualityClassifierConfig().files == ()


def test_a_text_scores_the_mean_of_its_words_and_pairs(small: Path) -> None:
    model = LinearModel.load(str(small))
    text = "Buy 12 cheap pills, now!"
    places = linear.features(linear.word_hashes(text), len(model.weights))
    assert len(places) == 2 * 7 - 1  # Buy 12 cheap pills , now !
    expected = model.card.bias + model.weights[places].astype(float).mean()
    assert math.isclose(model.logit(text), expected, rel_tol=1e-9)
    chance = 1 / (1 + math.exp(-(model.card.slope * expected + model.card.offset)))
    assert math.isclose(model.score(text), chance, rel_tol=1e-9)
    assert model.logit(text) == model.logit("buy 34 CHEAP pills , now !")


@pytest.mark.parametrize("damage", ["no folder", "no weights", "cut off", "changed", "no json", "future"])
def test_a_missing_or_damaged_model_is_named(small: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    if damage != "no folder":
        shutil.copytree(small, folder)
    weights, card = folder / "weights.safetensors", folder / "model.json"
    match damage:
        case "no weights":
            weights.unlink()
        case "cut off":
            weights.write_bytes(weights.read_bytes()[:-4])
        case "changed":
            content = bytearray(weights.read_bytes())
            content[-100] ^= 1
            weights.write_bytes(bytes(content))
        case "no json":
            card.write_text('{"format": 1')
        case "future":
            card.write_text(json.dumps(json.loads(card.read_text()) | {"format": 2}))
    named = "weights" if damage in ("no weights", "cut off", "changed") else "model.json"
    with pytest.raises(HeadwaterError, match=rf"{folder}/{named}.*(quality train|train the model again)"):
        QualityClassifierConfig(model=str(folder)).measurer()


def test_a_model_may_lie_in_s3(s3_server: str, small: Path) -> None:
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="models")
    for file in small.iterdir():
        client.upload_file(str(file), "models", f"quality/{file.name}")
    model = LinearModel.load("s3://models/quality")
    assert np.array_equal(model.weights, LinearModel.load(str(small)).weights)
    with pytest.raises(HeadwaterError, match="s3://models/other"):
        LinearModel.load("s3://models/other")


def test_too_few_texts_and_wrong_columns_say_so(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match="8 good texts, of which"):
        trained(tmp_path / "few", GOOD[:8], BAD)
    inputs = write(tmp_path / "good.jsonl", GOOD), write(tmp_path / "bad.jsonl", BAD)
    job = QualityJob((inputs[0],), (inputs[1],), str(tmp_path / "m"), Columns(text="content"))
    with pytest.raises(HeadwaterError, match=r"no good text could be read.*no_text 60.*--text-column"):
        train_model(job, lambda done, what: None, lambda total: lambda done, note: None)
    assert not (tmp_path / "m").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(HeadwaterError, match="this folder holds other files"):
        check_output(str(tmp_path / "mine"), overwrite=True)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=2, max_size=30)
)
def test_figures_follow_their_definitions(rows: list[tuple[float, bool]]) -> None:
    scores, good = np.array([score for score, _ in rows]), np.array([kind for _, kind in rows])
    if not (good.any() and (~good).any()):
        return
    pairs = [(a > b) + (a == b) / 2 for a in scores[good] for b in scores[~good]]
    assert math.isclose(training.area_under_curve(scores, good), sum(pairs) / len(pairs))
    found = training.figures(scores, good)
    for row in found["thresholds"]:
        kept = [kind for score, kind in rows if score >= row["threshold"]]
        assert row["kept"] == round(len(kept) / len(rows), 4)
        assert row["recall"] == round(sum(kept) / sum(good), 4)
        assert row["precision"] == (round(sum(kept) / len(kept), 4) if kept else None)


def test_calibration_finds_the_probabilities_that_logits_were_drawn_from() -> None:
    generator = np.random.default_rng(5)
    logits = generator.normal(0, 3, 20_000)
    good = generator.random(20_000) < 1 / (1 + np.exp(-(0.7 * logits - 1.2)))
    slope, offset = training.calibrate(logits, good)
    both_alike = math.log((~good).sum() / good.sum())  # kinds are weighed as if equally frequent
    assert math.isclose(slope, 0.7, abs_tol=0.03) and math.isclose(offset, -1.2 + both_alike, abs_tol=0.06)
    slope, offset = training.calibrate(np.array([-2.0, -1, 1, 2]), np.array([False, False, True, True]))
    assert 0 < slope < 100 and abs(offset) < 1e-6


def test_a_pass_follows_the_gradient_of_the_loss() -> None:
    """One step of AdaGrad by hand on two texts of one kind each."""
    table = Table(
        np.array([1, 2, 1], np.uint32), np.array([0, 2, 3]), np.array([True, False]), np.zeros(2, np.uint64)
    )
    weights, squares = np.zeros(4, np.float32), np.full(4, 0.25, np.float32)
    bias = np.array([0.0, 1.0])
    loss = training._pass(
        table.features, table.offsets, np.array([0, 1]), table.good, np.ones(2), weights, squares, bias, 1.0
    )
    bias_1 = 0.5 / math.sqrt(1.25)
    weight_1 = 0.25 / math.sqrt(0.25 + 0.0625)
    chance = 1 / (1 + math.exp(-(bias_1 + weight_1)))
    assert math.isclose(loss, math.log(2) - math.log(1 - chance), rel_tol=1e-5)
    assert math.isclose(bias[0], bias_1 - chance / math.sqrt(1.25 + chance**2), rel_tol=1e-5)
    assert math.isclose(weights[1], weight_1 - chance / math.sqrt(0.3125 + chance**2), rel_tol=1e-5)
    assert math.isclose(weights[2], weight_1, rel_tol=1e-6)
