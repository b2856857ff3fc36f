"""The data card of a corpus, and the licences that it counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.acquire import Acquire, AcquireConfig
from headwater.data_pipeline.clean.card import _public, described, page
from headwater.data_pipeline.clean.stage import Clean, CleanConfig
from headwater.data_pipeline.clean.update import Change, update
from headwater.data_pipeline.tables import read_table, write_table
from headwater.data_pipeline.text.main_text.page import HTMLTree, licence
from headwater.show import artifact_details
from tests.data_pipeline.corpora import article
from tests.data_pipeline.crawl.web import page as web_page
from tests.data_pipeline.crawl.web import serving
from tests.data_pipeline.crawl.web import source as crawl_source

LAST = "2024-02-20T21:10:55Z"
BY_SA = '<a rel="license" href="https://creativecommons.org/licenses/by-sa/4.0/">CC</a>'


def rows() -> list[dict[str, str]]:
    paragraphs = [
        "".join(f"<p>{part}.</p>" for part in article(n).removesuffix(".").split(". ")) for n in range(3)
    ]
    return [
        {"url": "https://www.a.org/1", "html": f"<body><article>{paragraphs[0]}</article>{BY_SA}</body>"},
        {"url": "https://a.org/2", "html": f"<html><body><article>{paragraphs[1]}</article></body></html>"},
        {"url": "https://b.org/3", "text": article(2), "license": "cc-by-4.0", "fetched_at": LAST},
        {"text": article(3), "url": "https://b.org/4", "fetched_at": "2023-01-01T00:00:00Z"},
        {"text": "too short", "url": "https://c.org/5"},
    ]


def source(folder: Path, content: list[dict[str, str]], name: str = "pages.jsonl") -> AcquireConfig:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    return AcquireConfig.model_validate({"sources": [{"kind": "jsonl", "paths": [str(folder / name)]}]})


def cleaned(session: Session, folder: Path, **settings: Any) -> Artifact:
    acquired, _ = execute(Acquire(source(folder, rows())), {}, session)
    return execute(Clean(CleanConfig.model_validate(settings)), {"acquire": acquired}, session)[0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A cleaned corpus that no test changes."""
    folder = tmp_path_factory.mktemp("card")
    with Session(Store(str(folder / "store")), max_workers=0) as session:
        return cleaned(session, folder)


def test_the_card_counts_what_is_kept_and_says_what_was_dropped(corpus: Artifact) -> None:
    card = corpus.read_json("card.json")
    assert (card["documents"], card["files"], card["different_domains"]) == (4, 1, 2)
    assert card["domains"] == {"a.org": 2, "b.org": 2} and card["languages"] == {"en": 4}
    assert card["licences"] == {"": 2, "cc-by-4.0": 1, "cc-by-sa-4.0": 1}
    assert card["fetched"] == {"first": "2023-01-01T00:00:00Z", "last": LAST}
    assert card["years"] == {"2023": 1, "2024": 1}
    ((kind, paths),) = (source.values() for source in card["sources"])
    assert kind == "jsonl" and Path(paths[0]).name == "pages.jsonl"
    assert sum(row["documents"] for row in card["dropped"]) == 1
    text = corpus.read_bytes("card.md").decode()
    assert "4 documents" in text and "| cc-by-sa-4.0 | 1 |" in text and "| none named | 2 |" in text
    assert {"card.md", "card.json", "croissant.json"} <= {file.path for file in corpus.finished().files}


def test_the_licence_is_a_column_and_a_filter(here: Session, tmp_path: Path) -> None:
    corpus = cleaned(here, tmp_path, licence={"allow": ["cc-by", "CC-BY-SA-4.0"]})
    kept = read_table(corpus, corpus.files("kept", ".parquet")[0])
    assert dict(zip(kept["url"].to_pylist(), kept["licence"].to_pylist(), strict=True)) == {
        "https://www.a.org/1": "cc-by-sa-4.0",
        "https://b.org/3": "cc-by-4.0",
    }
    dropped = read_table(corpus, corpus.files("rejected", ".parquet")[0]).to_pylist()
    assert [row["reason"] for row in dropped] == ["other_licence"] * 3
    none = cleaned(here, tmp_path, licence={"allow": ["none"]})
    assert none.read_json("card.json")["licences"] == {"": 2}


@pytest.mark.parametrize(
    ("mark", "name"),
    [
        (BY_SA, "cc-by-sa-4.0"),
        ('<link rel="License" href="http://creativecommons.org/publicdomain/zero/1.0/deed.de">', "cc0-1.0"),
        ('<a href="https://creativecommons.org/licenses/by-nc-nd/2.0/uk/">x</a>', "cc-by-nc-nd-2.0"),
        ('<a href="https://creativecommons.org/publicdomain/mark/1.0/">x</a>', "pdm-1.0"),
        ('<a rel="license" href="https://example.org/terms">x</a>', "https://example.org/terms"),
        ('<a rel="license" href="javascript:alert(1)">x</a>', ""),
        ('<a href="https://creativecommons.org/about">x</a>', ""),
        ('<a href="https://creativecommons.org/licenses/bygones/">x</a>', ""),
    ],
)
def test_a_licence_is_what_the_page_marks_as_such(mark: str, name: str) -> None:
    assert licence(HTMLTree.parse(f"<html><body><p>Words.</p>{mark}</body></html>")) == name


def test_an_addition_adds_its_source_to_the_card(here: Session, tmp_path: Path) -> None:
    corpus = cleaned(here, tmp_path)
    early = "2020-05-05T00:00:00Z"
    new = {"text": article(9), "url": "https://new.org/", "fetched_at": early}
    more = source(tmp_path, [new], "more.jsonl")
    update(corpus, Change(acquire=more), here)
    card = corpus.read_json("card.json")
    assert [Path(each["paths"][0]).name for each in card["sources"]] == ["pages.jsonl", "more.jsonl"]
    assert card["documents"] == 5 and card["domains"]["new.org"] == 1
    assert card["fetched"] == {"first": early, "last": LAST}
    update(corpus, Change(forget=("new.org",)), here)
    assert "new.org" not in corpus.read_json("card.json")["domains"]


def test_a_corpus_of_an_earlier_version_takes_additions(here: Session, tmp_path: Path) -> None:
    corpus = cleaned(here, tmp_path)
    for folder in ("kept", "rejected"):  # as version 4 wrote them
        for name in corpus.files(folder, ".parquet"):
            write_table(corpus, name, read_table(corpus, name).drop(["licence"]))
    for name in ("card.json", "card.md", "croissant.json"):
        corpus.delete(name)
    longer = {"text": f"{article(3)} One more sentence is here.", "url": "https://b.org/6"}
    more = source(tmp_path, [longer], "b.jsonl")
    update(corpus, Change(acquire=more), here)
    card = corpus.read_json("card.json")
    assert card["documents"] == 4 and card["licences"] == {"": 4}  # the longer one of two near copies


def test_funnel_and_card_need_no_look_at_the_written_documents(here: Session, tmp_path: Path) -> None:
    acquired, _ = execute(Acquire(source(tmp_path, rows())), {}, here)
    output, stage = Artifact(str(tmp_path / "clean")), Clean(CleanConfig())
    metrics = stage.run({"acquire": acquired}, output, here)
    names = ("funnel.json", "card.json", "card.md")
    made = {name: output.read_bytes(name) for name in names}
    for folder in ("kept", "rejected"):
        assert output.files(folder)
        output.delete_folder(folder)
    for name in names:
        output.delete(name)
    again = stage.run({"acquire": acquired}, output, here)  # all parts are written, the driver's work is left
    assert {name: output.read_bytes(name) for name in names} == made
    assert again["funnel"] == metrics["funnel"]


def test_show_says_where_the_card_is(corpus: Artifact) -> None:
    store = Store(corpus.location.removesuffix(f"/clean/{corpus.key}"))
    shown = [str(part) for part in artifact_details(store, corpus.finished())]
    assert f"data card: {corpus.path('card.md')}" in shown


def test_credentials_do_not_get_into_a_card() -> None:
    assert _public("https://me:secret@example.org/a.jsonl?sig=1#x") == "https://example.org/a.jsonl"
    assert _public(["s3://bucket/key", "pages/*.txt", 3]) == ["s3://bucket/key", "pages/*.txt", 3]


def test_markup_of_a_source_stays_text(corpus: Artifact) -> None:
    card = corpus.read_json("card.json")
    text = page(card | {"licences": {"https://x/|<script>": 1}})
    assert "| https://x/\\|\\<script\\> | 1 |" in text


def test_opt_outs_of_a_crawl_are_on_the_card(tmp_path: Path, here: Session) -> None:
    with serving() as net:
        noai = web_page(head='<meta name="robots" content="noai">')
        net.site("a.test", **{"/": web_page("/no", "/yes"), "/no": noai, "/yes": web_page()})
        settings = crawl_source(net.url("a.test", "/")).model_dump(mode="json")
        acquired, _ = execute(Acquire(AcquireConfig.model_validate({"sources": [settings]})), {}, here)
    (known,) = described(acquired)
    assert known["opt_outs"] == {"noai": 1, "not stored: opt_out": 1}
    assert "contact" not in known and known["seeds"]


REQUIRED: Mapping[str, type] = {
    "@context": dict,
    "conformsTo": str,
    "description": str,
    "license": object,
    "name": str,
}


def test_the_croissant_file_has_what_the_specification_requires(corpus: Artifact) -> None:
    made = corpus.read_json("croissant.json")
    assert made["@type"] == "sc:Dataset" and made["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert all(isinstance(made[name], kind) for name, kind in REQUIRED.items())
    (files,) = made["distribution"]
    assert files["includes"] == "kept/*.parquet" and files["encodingFormat"] == "application/x-parquet"
    (records,) = made["recordSet"]
    assert {each["source"]["fileSet"]["@id"] for each in records["field"]} == {files["@id"]}


def test_mlcroissant_reads_the_corpus_by_it(corpus: Artifact) -> None:
    croissant = pytest.importorskip("mlcroissant", reason="the extra `parity` has mlcroissant")
    dataset = croissant.Dataset(str(corpus.local("croissant.json")))
    assert not dataset.metadata.ctx.issues.errors
    read = {record["documents/url"].decode() for record in dataset.records("documents")}
    assert read == {f"https://{name}" for name in ("www.a.org/1", "a.org/2", "b.org/3", "b.org/4")}
