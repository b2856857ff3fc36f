"""`headwater clean` on plain files, and `explain` and `funnel` on its output."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from headwater.cli import app
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.commands.corpus import clean, funnel
from headwater.data_pipeline.explain import explain, token_places
from headwater.data_pipeline.tokens.tokenize import Tokenize, TokenizeConfig
from headwater.data_pipeline.tokens.tokenizer import TokenizerConfig, TrainTokenizer, load_encoder
from headwater.recipe import load_clean
from tests.data_pipeline.corpora import article, write_corpus
from tests.headwater.command import HERE


def call(*arguments: str | Path) -> str:
    """The command in this process, without Ray; what it prints."""
    screen = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for module in (clean, funnel):
            patch.setattr(module, "console", Console(file=screen, width=300))
        app(list(map(str, arguments)), standalone_mode=False)
    return screen.getvalue()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four kinds of files."""
    folder = tmp_path_factory.mktemp("pages")
    write_corpus(folder / "a.jsonl")
    rows = [{"text": article(n), "url": f"https://example.org/{n}"} for n in range(100, 104)]
    with gzip.open(folder / "b.jsonl.gz", "wt") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.table({"text": [article(200)], "url": ["u:parquet"]}), folder / "c.parquet")
    (folder / "d.txt").write_text(article(300))
    return folder


@pytest.fixture(scope="module")
def cleaned(pages: Path) -> Path:
    """All of them cleaned, for the tests that only look at the result."""
    out = pages.parent / "cleaned"
    assert "46 of 52 documents kept" in call("clean", pages, "--output", out, *HERE)
    return out


def test_any_files_become_kept_and_rejected(cleaned: Path) -> None:
    names = {path.name for path in cleaned.iterdir()}
    files = {"funnel.json", "funnel.png", "card.json", "card.md", "croissant.json", "manifest.json"}
    assert names == {"kept", "rejected", "scores"} | files
    assert not Path(f"{cleaned}.work").exists()
    rejected = pq.read_table(cleaned / "rejected").to_pylist()
    assert {row["step"] for row in rejected} >= {"gopher_quality", "exact_dedup", "minhash_dedup"}


def test_the_same_command_again_does_nothing(cleaned: Path, pages: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in cleaned.rglob("*")}
    assert "nothing to do" in call("clean", pages, "--output", cleaned)
    assert {path: path.stat().st_mtime_ns for path in cleaned.rglob("*")} == before


def test_a_result_of_other_settings_and_foreign_files_are_refused(cleaned: Path, pages: Path) -> None:
    with pytest.raises(HeadwaterError, match="other inputs or settings"):
        call("clean", pages, "-o", cleaned, "--set", "gopher_quality.min_words=5000")
    with pytest.raises(HeadwaterError, match="this folder holds other files"):
        call("clean", pages / "a.jsonl", "-o", pages, "--overwrite")
    assert (pages / "a.jsonl").exists()


def test_only_named_steps_run_on_foreign_columns_and_replace_when_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Session, "ray")  # a small corpus starts none
    out = tmp_path / "out"
    (out / "_scratch").mkdir(parents=True)
    (out / "_scratch/key").write_text("of another run that was cut off")
    table = {"content": [article(n) for n in range(3)], "doc": ["x", "y", "z"], "link": ["a", "b", "a/bad"]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    columns = ["--text-column", "content", "--id-column", "doc", "--url-column", "link"]
    steps = ["--steps", "url,pii", "--set", "url.words=[bad]"]
    call("clean", tmp_path / "t.parquet", "-o", out, *columns, *steps, "--overwrite")
    funnel = json.loads((out / "funnel.json").read_text())
    assert [step["step"] for step in funnel["steps"]] == ["acquire", "url", "extract", "pii"]
    kept = pq.read_table(out / "kept")
    found = sorted(zip(kept["id"].to_pylist(), kept["url"].to_pylist(), strict=True))
    assert found == [("x", "a"), ("y", "b")]


def test_a_corpus_takes_in_files_and_forgets_sources(cleaned: Path, tmp_path: Path) -> None:
    corpus = shutil.copytree(cleaned, tmp_path / "corpus")
    more = [{"text": article(n), "url": f"https://new.example.net/{n}"} for n in range(400, 403)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    add = "clean", tmp_path / "more.jsonl", "--add", "-o", corpus, *HERE
    assert "49 of 55 documents kept" in call(*add)
    assert "nothing to do" in call(*add)
    assert "46 of 52 documents kept" in call("clean", "--forget", "new.example.net", "-o", corpus, *HERE)
    assert (corpus / "funnel.json").read_bytes() == (cleaned / "funnel.json").read_bytes()
    with pytest.raises(HeadwaterError, match="--set with --add, --forget or --opt-outs"):
        call(*add, "--set", "c4.min_sentences=2")
    with pytest.raises(HeadwaterError, match="no INPUT"):
        call("clean", "-o", corpus)


def test_the_funnel_under_other_limits_is_shown_without_changing_anything(
    cleaned: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in cleaned.rglob("*")}
    shown = call("funnel", cleaned)
    assert "gopher_quality" in shown and "would be kept" not in shown
    fates = tmp_path / "fates.parquet"
    looser = call("funnel", cleaned, "--set", "minhash_dedup.enabled=false", "--output", fates)
    assert "47 documents would be kept (+1)" in looser
    assert pq.read_table(fates)["step"].null_count == 47
    with pytest.raises(HeadwaterError, match="did you mean min_words"):
        call("funnel", cleaned, "--set", "gopher_quality.min_word=3")
    with pytest.raises(HeadwaterError, match="no cleaned corpus here"):
        call("funnel", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in cleaned.rglob("*")} == before


def test_bad_names_are_told_with_the_nearest_one(pages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(HeadwaterError, match="did you mean gopher_quality"):
        call("clean", pages, "-o", out, "--steps", "gopher_qualty")
    with pytest.raises(HeadwaterError, match="did you mean min_words"):
        call("clean", pages, "-o", out, "--set", "gopher_quality.min_word=3")
    with pytest.raises(HeadwaterError, match="needs lists or sets"):
        call("clean", pages, "-o", out, "--steps", "url")
    with pytest.raises(HeadwaterError, match="no file in a supported format"):
        (tmp_path / "x.xls").write_bytes(b"PK")
        call("clean", tmp_path / "x.xls", "-o", out)
    assert not out.exists()


def test_a_recipes_section_is_the_base(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\nacquire: {sources: [{kind: folder, paths: [x]}]}\nclean: {fineweb: {min_lines: 7}}\n"
    )
    config = load_clean(recipe, ["fineweb"], ["fineweb.short_line=9"])
    assert (config.fineweb.min_lines, config.fineweb.short_line) == (7, 9)
    assert config.steps() == ["extract", "fineweb"]


def test_explain_tells_rule_score_and_original(cleaned: Path) -> None:
    short = call("explain", "u:short", "--in", cleaned)
    assert "gopher_quality: gopher short doc" in short and "threshold 50" in short
    copy = call("explain", "u:copy", "--in", cleaned)
    assert "exact_dedup: same text" in copy and "https://example.org/3" in copy
    assert "kept" in call("explain", "https://example.org/7", "--in", cleaned)
    with pytest.raises(HeadwaterError, match="no document has"):
        call("explain", "u:nobody", "--in", cleaned)


def test_the_rows_of_a_documents_tokens_are_found(cleaned: Path, tmp_path: Path) -> None:
    corpus = Artifact(str(cleaned), "clean", "key")
    with Session(Store(str(tmp_path / "store")), max_workers=0) as session:
        tokenizer, _ = execute(TrainTokenizer(TokenizerConfig(vocab_size=300)), {"clean": corpus}, session)
        inputs = {"clean": corpus, "tokenizer": tokenizer}
        rows, _ = execute(Tokenize(TokenizeConfig(row_length=64, validation_share=0.1)), inputs, session)
    (fate,) = explain(corpus, "https://example.org/7")
    (place,) = token_places(rows, fate.row["id"])
    with pa.memory_map(rows.path(place.shard)) as shard:
        ids = pa.ipc.open_file(shard).get_batch(0)["ids"].to_pylist()
    joined = ids[place.rows[0]][place.start :]
    for number in place.rows[1:]:
        joined += ids[number][1:]  # the first id is the last one of the row before
    encoder = load_encoder(tokenizer.local("tokenizer"))
    assert encoder.decode(joined, skip_special_tokens=False).startswith(article(7))
