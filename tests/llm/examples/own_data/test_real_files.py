"""Published data sets in their own formats, and files in an object store."""

from __future__ import annotations

import collections
import gzip
import json
import os
from pathlib import Path
from typing import Any

import boto3
import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.sources.items import Unread
from headwater.llm.examples.own_data.reading import OwnFile, conversations, preferences, prompts
from headwater.llm.examples.own_data.source import DataSource, fingerprint, list_files
from tests.hub import REPOSITORY, hub
from tests.llm.examples.own_data.test_formats import RECORDS, TALK, json_lines, parquet


def counted(path: Path, what: str = "conversations", **settings: Any) -> tuple[str, dict[str, int]]:
    """The format taken, and the number of records by outcome."""
    opened = OwnFile(DataSource.model_validate({"files": str(path)} | settings), str(path))
    found = [value for _, value in getattr(opened, what)()]
    kinds = collections.Counter(value.reason if isinstance(value, Unread) else "read" for value in found)
    return opened.format, dict(kinds)


# The counts are those of the files, taken with plain json: 153 of the 300 tool conversations hold a call, two
# of the pairs have an empty turn and two part earlier than at the last answer.
@pytest.mark.parametrize(
    ("file", "format", "outcome"),
    [
        ("chat/alpaca-en-999.json", "alpaca", {"read": 999}),
        ("chat/messages-500.jsonl", "messages", {"read": 500}),
        ("chat/toolcall-300.json", "sharegpt", {"read": 147, "unknown_role": 153}),
        (
            "preference/hh-harmless-human.jsonl.gz",
            "hh",
            {"read": 1862, "empty_message": 2, "different_prompts": 2},
        ),
        ("preference/dpo-en-300.json", "preference", {"read": 300}),
    ],
)
def test_published_conversations_are_recognised_and_read(
    file: str, format: str, outcome: dict[str, int], shared_data: Path
) -> None:
    assert counted(shared_data / file) == (format, outcome)


def test_every_pair_of_hh_shares_its_prompt(shared_data: Path) -> None:
    path = shared_data / "preference" / "hh-harmless-human.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    found = list(preferences(DataSource(files=(str(path),)), str(path)))
    for where, pair in found[:200]:
        if not isinstance(pair, Unread):
            row = rows[int(where.rpartition(":")[2]) - 1]
            assert row["chosen"].endswith(pair.chosen) and row["rejected"].strip().endswith(pair.rejected)
            assert all(message["content"] in row["chosen"] for message in pair.prompt)


def test_the_trees_of_openassistant_give_paths_and_ranked_pairs(shared_data: Path) -> None:
    path = shared_data / "chat" / "oasst-100-trees.jsonl"
    talks = [t for _, t in conversations(DataSource(files=(str(path),)), str(path)) if isinstance(t, list)]
    trees = {json.loads(line)["prompt"]["text"].strip() for line in path.open()}
    assert {talk[0]["content"].strip() for talk in talks} <= trees and len(talks) >= 100
    for talk in talks:
        assert [message["role"] for message in talk] == ["user", "assistant"] * (len(talk) // 2)
    _, outcome = counted(path, "preferences")
    assert outcome == {"read": 533}


def test_prompts_of_mathematics_keep_their_worked_answer(shared_data: Path) -> None:
    path = shared_data / "math" / "gsm8k-test.jsonl"
    named = DataSource(files=(str(path),), columns={"prompt": "question", "completion": "answer"})
    found = [prompt for _, prompt in prompts(named, str(path))]
    row = json.loads(path.open().readline())
    assert len(found) == 1319 and not isinstance(found[0], Unread)
    assert found[0].messages == [{"role": "user", "content": row["question"]}]
    assert found[0].reference == row["answer"] and "####" in row["answer"]


def test_a_published_table_is_read_to_its_end(shared_data: Path) -> None:
    path = shared_data / "chat" / "t0-55k.parquet"
    found = list(conversations(DataSource(files=(str(path),)), str(path)))
    assert len(found) == 55_185
    assert sum(isinstance(talk, Unread) for _, talk in found) == 1_400  # completions of an end token alone


@pytest.mark.parametrize("file", ["chat/seed-tasks-175.jsonl", "text/c4-300.jsonl"])
def test_what_is_no_conversation_is_an_error_that_names_its_columns(file: str, shared_data: Path) -> None:
    with pytest.raises(HeadwaterError, match=r"no known format has these columns: .*(instances|text)"):
        counted(shared_data / file)


def test_files_of_an_object_store_are_listed_and_read(s3_server: str) -> None:
    line = json.dumps(RECORDS["messages"]).encode()
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for name, body in (("a.jsonl", line), ("b.jsonl.gz", gzip.compress(line)), ("notes.txt", b"no")):
        client.put_object(Bucket="corpus", Key=f"own/{name}", Body=body)
    for files in ("s3://corpus/own/", "s3://corpus/own/*.jsonl*"):
        sources = [DataSource(files=(files,))]
        found = list_files(sources)
        assert [file.path for file in found] == ["s3://corpus/own/a.jsonl", "s3://corpus/own/b.jsonl.gz"]
        for file in found:
            assert list(conversations(file.source, file.path)) == [(f"{file.path}:1", TALK)]
    before = fingerprint(sources)
    client.put_object(Bucket="corpus", Key="own/a.jsonl", Body=line + b"\n" + line)
    assert fingerprint(sources) != before


def test_a_missing_object_is_named(s3_server: str) -> None:
    nowhere = DataSource(files=("s3://corpus/nowhere.jsonl",))
    (file,) = list_files([nowhere])
    with pytest.raises(HeadwaterError, match=r"s3://corpus/nowhere.jsonl: cannot be read \(not_found"):
        list(conversations(nowhere, file.path))


def test_files_of_a_dataset_are_listed_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    parquet(tmp_path / "data" / "train.parquet", [RECORDS["sharegpt"]])
    json_lines(tmp_path / "data" / "a.jsonl", [RECORDS["alpaca"]])
    with hub(tmp_path) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        (source,) = sources = [DataSource(files=(f"hf://datasets/{REPOSITORY}",))]
        files = [file.path for file in list_files(sources)]
        assert files == [f"hf://datasets/{REPOSITORY}/data/{name}" for name in ("a.jsonl", "train.parquet")]
        for file in files:
            assert list(conversations(source, file)) == [(f"{file}:1", TALK)]
