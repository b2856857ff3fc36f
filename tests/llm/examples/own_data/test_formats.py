"""Each format in each container becomes the same conversations, pairs and prompts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from headwater.data_pipeline.sources.items import Unread
from headwater.llm.examples.own_data.reading import OwnFile, conversations, preferences, prompts
from headwater.llm.examples.own_data.source import DataSource


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be kind."}
TALK = [user("How are you?"), assistant("Well.")]
TREE = {
    "message_tree_id": "t",
    "prompt": {
        "role": "prompter",
        "text": "How are you?",
        "replies": [
            {"role": "assistant", "text": "Bad.", "rank": 1, "replies": []},
            {
                "role": "assistant",
                "text": "Well.",
                "rank": 0,
                "replies": [
                    {
                        "role": "prompter",
                        "text": "Why?",
                        "replies": [{"role": "assistant", "text": "Sun.", "rank": 0, "replies": []}],
                    },
                    {"role": "prompter", "text": "And now?", "replies": []},
                ],
            },
            {"role": "assistant", "text": "Spam.", "rank": 2, "deleted": True, "replies": []},
        ],
    },
}
RECORDS: dict[str, dict[str, Any]] = {
    "messages": {"messages": TALK},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "How are you?"}, {"from": "gpt", "value": "Well."}]
    },
    "alpaca": {"instruction": "How are you?", "input": "", "output": "Well."},
    "prompt_completion": {"prompt": "How are you?", "completion": "Well."},
    "hh": {
        "chosen": "\n\nHuman: How are you?\n\nAssistant: Well.",
        "rejected": "\n\nHuman: How are you?\n\nAssistant: Bad.",
    },
    "preference": {"prompt": "How are you?", "chosen": "Well.", "rejected": "Bad."},
}


def json_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def packed(path: Path, rows: list[Any]) -> Path:
    path.write_bytes(gzip.compress(json_lines(path.with_suffix(".plain"), rows).read_bytes()))
    return path


def array_in_zstd(path: Path, rows: list[Any]) -> Path:
    path.write_bytes(zstandard.compress(json.dumps(rows, indent=1).encode()))
    return path


def array(path: Path, rows: list[Any]) -> Path:
    path.write_text("\ufeff" + json.dumps(rows, indent=1))
    return path


def parquet(path: Path, rows: list[Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


CONTAINERS: dict[str, Callable[[Path, list[Any]], Path]] = {
    "rows.jsonl": json_lines,
    "rows.jsonl.gz": packed,
    "rows.json": array,
    "rows.json.zst": array_in_zstd,
    "rows.parquet": parquet,
}


def source(path: Path, **settings: Any) -> DataSource:
    return DataSource.model_validate({"files": [str(path)]} | settings)


def talks(path: Path, **settings: Any) -> list[Any]:
    return [found for _, found in conversations(source(path, **settings), str(path))]


def one(tmp_path: Path, record: dict[str, Any], **settings: Any) -> list[Any]:
    return talks(json_lines(tmp_path / "one.jsonl", [record]), **settings)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("format", RECORDS)
def test_a_conversation_is_the_same_in_every_format_and_container(
    format: str, container: str, tmp_path: Path
) -> None:
    path = CONTAINERS[container](tmp_path / container, [RECORDS[format]] * 2)
    opened = OwnFile(source(path), str(path))
    assert list(opened.conversations()) == [(f"{path}:1", TALK), (f"{path}:2", TALK)]
    assert opened.format == format
    assert talks(path, format=format) == [TALK, TALK]


@pytest.mark.parametrize("container", [name for name in CONTAINERS if name != "rows.parquet"])
def test_a_tree_gives_its_best_answers_and_its_ranked_pairs(container: str, tmp_path: Path) -> None:
    path = CONTAINERS[container](tmp_path / container, [TREE])
    assert list(conversations(source(path), str(path))) == [
        (f"{path}:1", [*TALK, user("Why?"), assistant("Sun.")])
    ]
    (pair,) = [pair for _, pair in preferences(source(path), str(path))]
    assert not isinstance(pair, Unread)
    assert (pair.prompt, pair.chosen, pair.rejected) == (TALK[:1], "Well.", "Bad.")
    assert pair.origins == (f"{path}:1",)


def test_of_three_ranked_answers_every_pair_is_learnt_the_better_first(tmp_path: Path) -> None:
    replies = [{"role": "assistant", "text": f"{rank}", "rank": rank, "replies": []} for rank in (2, 0, 1)]
    tree = {"prompt": {"role": "prompter", "text": "Hm?", "replies": replies}}
    path = json_lines(tmp_path / "trees.jsonl", [tree])
    found = [pair for _, pair in preferences(source(path), str(path))]
    assert [(pair.chosen, pair.rejected) for pair in found if not isinstance(pair, Unread)] == [
        ("0", "1"),
        ("0", "2"),
        ("1", "2"),
    ]


@pytest.mark.parametrize(
    "record",
    [
        RECORDS["preference"],
        RECORDS["hh"],
        {"prompt": TALK[:1], "chosen": [TALK[1]], "rejected": [assistant("Bad.")]},
        {"prompt": "How are you?", "chosen": TALK, "rejected": [TALK[0], assistant("Bad.")]},
        {"chosen": TALK, "rejected": [TALK[0], assistant("Bad.")]},
        {"instruction": "How are you?", "input": "", "chosen": "Well.", "rejected": "Bad."},
        {
            "conversations": [{"from": "human", "value": "How are you?"}],
            "chosen": {"from": "gpt", "value": "Well."},
            "rejected": {"from": "gpt", "value": "Bad."},
        },
    ],
    ids=["texts", "hh", "messages", "whole talks and prompt", "implicit prompt", "alpaca", "sharegpt"],
)
@pytest.mark.parametrize("container", ["rows.jsonl", "rows.parquet"])
def test_a_preference_is_the_same_in_every_notation(
    record: dict[str, Any], container: str, tmp_path: Path
) -> None:
    path = CONTAINERS[container](tmp_path / container, [record])
    ((where, pair),) = preferences(source(path), str(path))
    assert not isinstance(pair, Unread)
    assert (pair.prompt, pair.chosen, pair.rejected) == (TALK[:1], "Well.", "Bad.")
    assert pair.origins == (where,) == (f"{path}:1",)


def test_a_system_column_comes_first_and_an_empty_one_is_no_message(tmp_path: Path) -> None:
    for format in ("messages", "sharegpt", "alpaca", "prompt_completion"):
        assert one(tmp_path, RECORDS[format] | {"system": "Be kind."}) == [[SYSTEM, *TALK]]
        assert one(tmp_path, RECORDS[format] | {"system": " "}) == [TALK]
    path = json_lines(tmp_path / "pairs.jsonl", [RECORDS["preference"] | {"system": "Be kind."}])
    ((_, pair),) = preferences(source(path), str(path))
    assert not isinstance(pair, Unread) and pair.prompt == [SYSTEM, *TALK[:1]]


def test_an_alpaca_record_has_its_input_and_earlier_turns(tmp_path: Path) -> None:
    record = {"instruction": "Add.", "input": "1 and 2", "output": "3", "history": [["Hi", "Hello"]]}
    expected = [user("Hi"), assistant("Hello"), user("Add.\n\n1 and 2"), assistant("3")]
    assert one(tmp_path, record) == [expected]


def test_a_completion_may_be_messages_and_loses_the_end_token_of_older_tools(tmp_path: Path) -> None:
    assert one(tmp_path, {"prompt": TALK[:1], "completion": TALK[1:]}) == [TALK]
    assert one(tmp_path, {"prompt": "How are you?", "completion": "Well.<|endoftext|>\n"}) == [TALK]


def test_a_longer_transcript_keeps_its_turns(tmp_path: Path) -> None:
    text = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How are you?\n\nAssistant: "
    path = json_lines(tmp_path / "hh.jsonl", [{"chosen": text + "Well.", "rejected": text + "Bad."}])
    ((_, pair),) = preferences(source(path), str(path))
    assert not isinstance(pair, Unread)
    assert pair.prompt == [user("Hi"), assistant("Hello"), user("How are you?")]
    assert (pair.chosen, pair.rejected) == ("Well.", "Bad.")


def test_columns_are_renamed(tmp_path: Path) -> None:
    record = {"question": "How are you?", "answer": "Well.", "id": 7}
    assert one(tmp_path, record, columns={"prompt": "question", "completion": "answer"}) == [TALK]
    assert one(tmp_path, {"dialog": TALK}, columns={"messages": "dialog"}) == [TALK]


@pytest.mark.parametrize("format", RECORDS)
def test_a_prompt_is_what_comes_before_the_last_answer_which_is_its_reference(
    format: str, tmp_path: Path
) -> None:
    path = json_lines(tmp_path / "prompts.jsonl", [RECORDS[format], RECORDS[format] | {"reference": "5"}])
    found = [prompt for _, prompt in prompts(source(path), str(path)) if not isinstance(prompt, Unread)]
    assert [prompt.messages for prompt in found] == [TALK[:1]] * 2
    assert [prompt.reference for prompt in found] == ["Well.", "5"]
    assert found[1].origin == f"{path}:2"


def test_a_prompt_alone_has_no_reference(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "prompts.jsonl", [{"prompt": "How are you?"}, {"prompt": TALK[:1]}])
    found = [prompt for _, prompt in prompts(source(path), str(path)) if not isinstance(prompt, Unread)]
    assert [(prompt.messages, prompt.reference) for prompt in found] == [(TALK[:1], None)] * 2
