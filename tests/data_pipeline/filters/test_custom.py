"""Filters of a user's own file, and further columns kept through cleaning."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.clean.rescore import check
from headwater.data_pipeline.clean.score_documents import Measurer
from headwater.data_pipeline.clean.stage import Clean, MeasureWorker, WriteWorker
from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.clean.update import Gone, MergeWorker
from headwater.data_pipeline.documents import Document, from_table, to_table
from headwater.data_pipeline.tables import TEXTS, read_table, write_table
from tests.data_pipeline.corpora import article
from tests.data_pipeline.reading import read_all

OPEN_LICENCE = """
from __future__ import annotations
import json
from typing import ClassVar
from headwater.data_pipeline.filters.filter import FilterConfig, Measure
from headwater.data_pipeline.verdict import Rule

class OpenLicence(FilterConfig):
    measured_with: ClassVar[frozenset[str] | None] = frozenset({"allowed"})
    allowed: tuple[str, ...] = ("CC0",)
    least: float = 0.5

    def measurer(self) -> Measure:
        return lambda found: {"open": float(json.loads(found.document.metadata)["licence"] in self.allowed)}

    def rules(self) -> list[Rule]:
        return [Rule("open", "closed_licence", least=self.least)]
"""


@pytest.fixture
def filter_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_filters.py"
    path.write_text(OPEN_LICENCE)
    return path


def config_with(file: Path, **settings: object) -> CleanConfig:
    own = {"custom": f"{file}:OpenLicence", "settings": settings}
    off = {name: {"enabled": False} for name in CleanConfig().names() if name != "extract"}
    return CleanConfig.model_validate(off | {"filters": [own]})


def licensed(number: int, licence: str) -> Document:
    return Document(
        str(number),
        f"u:{number}",
        "",
        article(number),
        source=f"f:{number}",
        metadata=json.dumps({"licence": licence}),
    )


def cleaned(config: CleanConfig, folder: Path) -> Artifact:
    acquired, output = Artifact(str(folder / "acquired"), "acquire"), Artifact(str(folder / "clean"), "clean")
    write_table(
        acquired, "documents/a.parquet", to_table([licensed(1, "CC0"), licensed(2, "all rights reserved")])
    )
    MeasureWorker(config, output, acquired)({"unit": "a", "part": "documents/a.parquet"})
    Clean(config)._decide(["a"], output)
    WriteWorker(output)({"unit": "a"})
    return output


def rows(artifact: Artifact, folder: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = pq.read_table(
        pa.BufferReader(artifact.read_bytes(f"{folder}/a.parquet"))
    ).to_pylist()
    return found


def test_a_filter_of_a_file_decides_with_its_settings_and_the_file_need_not_be_there(
    filter_file: Path, tmp_path: Path
) -> None:
    config = config_with(filter_file)
    filter_file.unlink()
    again = CleanConfig.model_validate_json(config.model_dump_json())
    assert again.steps() == ["extract", "OpenLicence"]
    output = cleaned(again, tmp_path)
    assert [row["id"] for row in rows(output, "kept")] == ["1"]
    assert [(row["step"], row["reason"]) for row in rows(output, "rejected")] == [
        ("OpenLicence", "closed_licence")
    ]


def test_metadata_stays_with_kept_and_rejected_documents_and_comes_back_with_them(
    filter_file: Path, tmp_path: Path
) -> None:
    output = cleaned(config_with(filter_file), tmp_path)
    assert json.loads(rows(output, "kept")[0]["metadata"]) == {"licence": "CC0"}
    assert json.loads(rows(output, "rejected")[0]["metadata"]) == {"licence": "all rights reserved"}
    MergeWorker(output, Gone([]))({"unit": "a"})
    merged = from_table(read_table(output, f"{TEXTS}/a.parquet"))
    assert [(each.id, json.loads(each.metadata or "")["licence"]) for each in merged] == [
        ("1", "CC0"),
        ("2", "all rights reserved"),
    ]


def test_the_key_follows_the_file_and_not_its_absence(filter_file: Path) -> None:
    def key(config: CleanConfig) -> str:
        return Clean(config).key({}, {})

    first = key(config_with(filter_file))
    assert key(config_with(filter_file)) == first
    filter_file.write_text(OPEN_LICENCE + "\n# another\n")
    assert key(config_with(filter_file)) != first
    assert key(config_with(filter_file, least=0.1)) != first
    assert "filters" in Clean.off_fields


def test_limits_can_be_changed_afterwards_and_scores_cannot(filter_file: Path) -> None:
    made_with = config_with(filter_file)
    check(made_with, config_with(filter_file, least=2.0))
    with pytest.raises(HeadwaterError, match="changes the scores"):
        check(made_with, config_with(filter_file, allowed=["MIT"]))
    with pytest.raises(HeadwaterError, match="added or removed"):
        check(made_with, CleanConfig())


@pytest.mark.parametrize(
    ("source", "settings", "problem"),
    [
        ("class Other: pass", {}, "defines no `OpenLicence`"),
        ("class OpenLicence: pass", {}, "this is no filter"),
        ("import nothing_of_this_name\nclass OpenLicence: pass", {}, "the file failed .ModuleNotFoundError"),
        (OPEN_LICENCE, {"most": 1}, "settings.most"),
    ],
)
def test_a_file_that_is_no_filter_is_refused_before_the_run(
    tmp_path: Path, source: str, settings: dict[str, object], problem: str
) -> None:
    file = tmp_path / "my_filters.py"
    file.write_text(source)
    with pytest.raises(HeadwaterError, match=problem) as error:
        Clean(config_with(file, **settings)).check()
    assert str(file) in str(error.value.where)


def test_two_steps_of_one_name_are_refused(filter_file: Path) -> None:
    own = {"custom": f"{filter_file}:OpenLicence"}
    with pytest.raises(ValueError, match="the name of two steps"):
        CleanConfig.model_validate({"filters": [own, own]})


def test_a_filter_that_fails_names_itself_and_the_document(filter_file: Path) -> None:
    measure = Measurer(config_with(filter_file))
    with pytest.raises(HeadwaterError, match="TypeError") as error:
        measure(Document("1", "", "", "words", source="a.jsonl:line 3"))
    assert "OpenLicence, at a.jsonl:line 3" in str(error.value.where)


def test_columns_asked_for_are_kept_as_json(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "licence": "CC0", "n": 3, "x": NaN, "empty": null, "other": 1}\n')
    columns = {"metadata": ["licence", "n", "empty", "missing"]}
    documents, _, _ = read_all("jsonl", str(path), columns=columns)
    assert json.loads(documents[0].metadata or "") == {"licence": "CC0", "n": 3}
    documents, _, _ = read_all("jsonl", str(path), columns={"metadata": ["x"]})
    assert json.loads(documents[0].metadata or "") == {"x": "nan"}
    assert read_all("jsonl", str(path))[0][0].metadata is None
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"], "day": pa.array([0], pa.date32()), "other": [1]}), table)
    documents, _, _ = read_all("parquet", str(table), columns={"metadata": ["day"]})
    assert json.loads(documents[0].metadata or "") == {"day": "1970-01-01"}


def test_tables_without_metadata_are_as_before() -> None:
    assert "metadata" not in to_table([Document("1", "", "", "words")]).column_names
    assert from_table(to_table([Document("1", "", "", "words")]))[0].metadata is None
