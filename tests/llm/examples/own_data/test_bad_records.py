"""What is wrong in own files is named with its file and line, and a file of no use is one plain error."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.sources.items import Unread
from headwater.llm.examples.own_data import reading
from headwater.llm.examples.own_data.reading import conversations, preferences, prompts
from headwater.llm.examples.own_data.source import DataSources, fingerprint, list_files
from tests.llm.examples.own_data.test_formats import (
    RECORDS,
    TALK,
    assistant,
    json_lines,
    parquet,
    source,
    user,
)

GOOD = RECORDS["messages"]


def skipped(path: Path, read: Any = conversations, **settings: Any) -> list[tuple[str, str, str]]:
    """(position, reason, detail) of what is skipped."""
    found = [bad for _, bad in read(source(path, **settings), str(path)) if isinstance(bad, Unread)]
    assert {bad.file for bad in found} <= {str(path)}
    return [(bad.position, bad.reason, bad.detail) for bad in found]


def test_a_malformed_line_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"\n".join([good, b'{"messages": [', b"", b"[1]", b'"\xff"', good]))
    found = list(conversations(source(path), str(path)))
    assert [where for where, talk in found if talk == TALK] == [f"{path}:1", f"{path}:6"]
    assert [(position, reason) for position, reason, _ in skipped(path)] == [
        ("line 2", "broken_line"),
        ("line 4", "broken_line"),
        ("line 5", "invalid_utf8"),
    ]


@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        (
            {"messages": [user("Hm?"), {"role": "function", "content": "4"}]},
            "unknown_role",
            "message 2 .* 'function'",
        ),
        ({"messages": [user("Hm?")]}, "no_answer", "no message of the assistant"),
        ({"messages": [user("Hm?"), assistant(" ")]}, "empty_message", r"message 2 \(assistant\) is empty"),
        ({"messages": []}, "not_messages", "non-empty list"),
        (
            {"messages": [user("Hm?"), {"role": "assistant", "content": 5}]},
            "bad_message",
            "content of message 2",
        ),
        ({"messages": [user("Hm?"), assistant("\ud800")]}, "invalid_utf8", "message 2"),
        ({"messages": None, "id": 3}, "missing_column", "no `messages` among id"),
    ],
)
def test_a_bad_conversation_has_a_reason(
    record: dict[str, Any], reason: str, detail: str, tmp_path: Path
) -> None:
    path = json_lines(tmp_path / "chats.jsonl", [GOOD, record])
    ((position, found, text),) = skipped(path)
    assert (position, found) == ("line 2", reason)
    assert re.search(detail, text), text


def test_tool_calls_of_sharegpt_are_named_and_never_mapped(tmp_path: Path) -> None:
    calls = {
        "conversations": [*RECORDS["sharegpt"]["conversations"], {"from": "function_call", "value": "f"}]
    }
    path = parquet(tmp_path / "calls.parquet", [RECORDS["sharegpt"], calls])
    assert skipped(path) == [("row 2", "unknown_role", "message 3 has the role 'function_call'")]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "Hm?", "chosen": "A", "rejected": " A"}, "equal_answers"),
        ({"prompt": "Hm?", "chosen": "", "rejected": "B"}, "empty_answer"),
        ({"prompt": " ", "chosen": "A", "rejected": "B"}, "empty_prompt"),
        ({"chosen": "A", "rejected": "B"}, "missing_column"),
        ({"chosen": TALK, "rejected": [user("Other"), assistant("B")]}, "different_prompts"),
        ({"chosen": TALK, "rejected": TALK[:1]}, "no_answer"),
        ({"prompt": TALK, "chosen": "A", "rejected": "B"}, "no_prompt"),
    ],
)
def test_a_bad_pair_has_a_reason(record: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = json_lines(tmp_path / "pairs.jsonl", [RECORDS["preference"], record])
    assert [(position, found) for position, found, _ in skipped(path, preferences)] == [("line 2", reason)]


def test_transcripts_that_part_before_the_last_answer_are_no_pair(tmp_path: Path) -> None:
    other = {**RECORDS["hh"], "rejected": "\n\nHuman: Who?\n\nAssistant: Bad."}
    unfinished = {**RECORDS["hh"], "chosen": "\n\nHuman: How are you?"}
    path = json_lines(tmp_path / "hh.jsonl", [RECORDS["hh"], other, unfinished])
    reasons = [(position, reason) for position, reason, _ in skipped(path, preferences)]
    assert reasons == [("line 2", "different_prompts"), ("line 3", "no_answer")]


def error(path: Path, read: Any = conversations, **settings: Any) -> str:
    with pytest.raises(HeadwaterError) as caught:
        list(read(source(path, **settings), str(path)))
    assert caught.value.fix and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_with_three_formats_is_one_error_that_names_each(tmp_path: Path) -> None:
    rows = [RECORDS[name] for name in ("messages", "messages", "alpaca", "sharegpt")]
    path = json_lines(tmp_path / "mixed.jsonl", rows)
    told = error(path)
    assert f"{path}: the file mixes 3 formats: messages (line 1), alpaca (line 3), sharegpt (line 4)" in told
    assert [(at, reason) for at, reason, _ in skipped(path, format="messages")] == [
        ("line 3", "missing_column"),
        ("line 4", "missing_column"),
    ]


def test_another_format_far_into_the_file_is_the_same_error(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "mixed.jsonl", [GOOD] * reading.LOOKED_AT + [RECORDS["alpaca"]])
    assert f"alpaca (line {reading.LOOKED_AT + 1})" in error(path)


def test_a_missing_column_is_one_error_with_the_columns_that_are_there(tmp_path: Path) -> None:
    rows = [{"question": "Hm?", "answer": "Yes."}]
    for path in (json_lines(tmp_path / "a.jsonl", rows), parquet(tmp_path / "a.parquet", rows)):
        told = error(path, columns={"prompt": "question", "completion": "reply"})
        assert "no column `reply`" in told and "name one of its columns: question, answer" in told
        told = error(path, format="prompt_completion")
        assert "no `prompt` among question, answer" in told and "columns: {prompt: NAME" in told
        assert "no known format has these columns: question, answer" in error(path)


def test_a_prompt_without_an_answer_is_none_to_fine_tune_on(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "prompts.jsonl", [{"prompt": "Hm?"}])
    assert "no `completion` among prompt" in error(path)
    assert len(list(prompts(source(path), str(path)))) == 1


def test_a_file_of_which_nothing_can_be_read_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert "the file holds no record" in error(tmp_path / "empty.jsonl")
    (tmp_path / "prose.jsonl").write_text("Dear all,\nhello\n")
    assert "none of its 2 records can be used; line 1: broken_line" in error(tmp_path / "prose.jsonl")
    (tmp_path / "array.json").write_text("[{},\n{]")
    assert "not a valid JSON array: " in error(tmp_path / "array.json")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    assert "damaged Parquet" in error(tmp_path / "broken.parquet")
    assert "not_found" in error(tmp_path / "none.jsonl")
    line = json.dumps(GOOD).encode() + b"\n"
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(line * 1000)[:-12])
    assert "cut.jsonl.gz, line" in error(tmp_path / "cut.jsonl.gz")


def test_conversations_hold_no_pairs(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "chats.jsonl", [GOOD])
    assert "records of the format messages hold no pairs of answers" in error(path, preferences)


class Section(BaseModel):
    data: DataSources | None = None


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "the list is empty: name a file in it, or remove the key"),
        ([{"files": []}], "at least 1 item"),
        (
            [{"files": "a", "columns": {"question": "q"}}],
            "no format has a column question; there are messages",
        ),
        ([{"files": "a", "format": "vicuna"}], "'messages', 'alpaca'"),
        ([{"files": "a", "weight": 0}], "greater than 0"),
        ([{"files": "a", "weight": float("nan")}], "finite"),
    ],
)
def test_a_setting_without_sense_is_refused(value: object, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Section.model_validate({"data": value})


def test_a_string_is_the_short_form_of_a_source(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", [GOOD])
    section = Section.model_validate({"data": [str(path), {"files": str(path)}]})
    assert section.data is not None and section.data[0] == section.data[1]
    assert Section.model_validate(section.model_dump(mode="json")) == section
    assert Section.model_validate({"data": None}).data is None


def test_a_missing_path_and_a_folder_without_data_are_errors_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match=r"none.jsonl: no such file or folder \(correct `sft.data`\)"):
        list_files([source(tmp_path / "none.jsonl")], "sft.data")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(HeadwaterError, match=r"the folder contains no \.jsonl"):
        list_files([source(tmp_path)])


def test_the_fingerprint_changes_with_names_and_content_only(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", [GOOD])
    before = fingerprint([source(tmp_path)])
    assert before == fingerprint([source(tmp_path)])
    json_lines(tmp_path / "b.jsonl", [GOOD])
    assert fingerprint([source(tmp_path)])["files"] == 2
    (tmp_path / "b.jsonl").unlink()
    json_lines(path, [GOOD, GOOD])
    assert fingerprint([source(tmp_path)]) != before
