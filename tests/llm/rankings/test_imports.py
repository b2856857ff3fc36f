"""Rankings from other tools, in the shapes of their exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.sources.items import Unread
from headwater.llm.examples.rankings import Kept, Ranking
from headwater.llm.rankings.imports import imported
from headwater.llm.rankings.pairs import pair_lines


def written(folder: Path, value: Any) -> str:
    file = folder / "export.json"
    file.write_text(json.dumps(value))
    return str(file)


def split(found: list[Ranking | Unread]) -> tuple[list[Ranking], list[str]]:
    good = [each for each in found if isinstance(each, Ranking)]
    return good, [each.detail for each in found if isinstance(each, Unread)]


def feedback(rating: Any, siblings: int) -> dict[str, Any]:
    """A record of Open WebUI's `GET /api/v1/evaluations/feedbacks/all/export`."""
    messages: dict[str, Any] = {
        "u1": {"id": "u1", "parentId": None, "childrenIds": ["a1"], "role": "user", "content": "Hi"},
        "a1": {"id": "a1", "parentId": "u1", "childrenIds": ["u2"], "role": "assistant", "content": "Hello"},
        "u2": {"id": "u2", "parentId": "a1", "childrenIds": ["b0"], "role": "user", "content": "Why?"},
        "b0": {"id": "b0", "parentId": "u2", "childrenIds": [], "role": "assistant", "content": "Because 0"},
    }
    for number in range(1, siblings + 1):
        name = f"b{number}"
        messages["u2"]["childrenIds"].append(name)
        messages[name] = messages["b0"] | {"id": name, "content": f"Because {number}"}
    return {
        "id": "f",
        "user_id": "user-7",
        "version": 0,
        "type": "rating",
        "data": {"rating": rating, "model_id": "m", "reason": "attention_to_detail", "comment": "good"},
        "meta": {"arena": True, "chat_id": "c", "message_id": "b0"},
        "snapshot": {"chat": {"id": "c", "chat": {"history": {"messages": messages, "currentId": "b0"}}}},
        "created_at": 1_900_000_000,
        "updated_at": 1_900_000_001,
    }


def test_open_webui_compares_a_rated_answer_with_the_others_to_its_message(tmp_path: Path) -> None:
    records = [feedback(1, 1), feedback(-1, 2), feedback(1, 0), feedback(5, 1), {"snapshot": {}, "data": {}}]
    good, bad = split(list(imported(written(tmp_path, records))))
    up, down = good
    assert [message["content"] for message in up.prompt] == ["Hi", "Hello", "Why?"]
    assert [answer.text for answer in up.answers] == ["Because 0", "Because 1"]
    assert (up.ranks, down.ranks) == ([1, 2], [2, 1, 1])
    assert (up.rater, up.reason, up.model) == ("user-7", "attention_to_detail good", "m")
    assert up.time == "2030-03-17T17:46:40+00:00" and up.source == "import: export.json"
    assert bad[0] == "the rated answer is the only one to its message"
    assert "the rating is 5" in bad[1] and len(bad) == 3


def test_argilla_records_of_both_versions(tmp_path: Path) -> None:
    fields = {"instruction": "Add 1 and 1.", "response_1": "2", "response_2": "3"}
    ranked = [{"value": ["response_1", "response_2"], "user_id": "u1"}]
    chosen = [{"value": "response-2", "user_id": "u2"}, {"value": "tie", "user_id": "u3"}]
    old = {"value": [{"value": "response-1", "rank": 2}, {"value": "response-2", "rank": 1}]}
    records = [
        {"id": "1", "fields": fields, "responses": {"ranking": ranked}},
        {"id": "2", "fields": fields, "responses": {"better": chosen}},
        {
            "fields": fields,
            "responses": [
                {"user_id": "u4", "values": {"ranking": old}, "status": "submitted"},
                {"user_id": "u5", "values": {"ranking": old}, "status": "draft"},
            ],
        },
        {"id": "4", "fields": fields, "responses": {"comment": [{"value": "nice", "user_id": "u6"}]}},
    ]
    good, bad = split(list(imported(written(tmp_path, records))))
    assert [(each.rater, each.ranks) for each in good] == [
        ("u1", [1, 2]),
        ("u2", [2, 1]),
        ("u3", [1, 1]),
        ("u4", [2, 1]),
    ]
    assert good[0].prompt == [{"role": "user", "content": "Add 1 and 1."}]
    assert bad == ["no response ranks the fields, or names the better one"]


def test_pairs_of_anthropic_and_trees_of_openassistant(tmp_path: Path) -> None:
    said = "\n\nHuman: Why?\n\nAssistant: "
    hh = {"chosen": f"{said}Because.", "rejected": f"{said}No."}
    (only,) = imported(written(tmp_path, [hh]), rater="team")
    assert isinstance(only, Ranking)
    assert (only.answers[0].text, only.ranks, only.rater) == ("Because.", [1, 2], "team")
    replies = [{"text": f"answer {rank}", "role": "assistant", "rank": rank} for rank in (1, 0, 2)]
    tree = {"prompt": {"text": "Why?", "role": "prompter", "replies": replies}}
    good, _ = split(list(imported(written(tmp_path, [tree]))))
    pairs = [(better.text, worse.text) for each in good for _, better, worse in each.pairs()]
    assert pairs == [("answer 0", "answer 1"), ("answer 0", "answer 2"), ("answer 1", "answer 2")]
    assert {each.rater for each in good} == {"imported"}


def test_a_pair_says_which_answer_was_cut_and_an_unknown_reason_is_not_taken_for_an_end(
    tmp_path: Path,
) -> None:
    pair = {"prompt": "Why?", "chosen": "Because.", "rejected": "Well, you"}
    cut, odd = pair | {"rejected_finish_reason": "length"}, pair | {"chosen_finish_reason": "max_tokens"}
    good, bad = split(list(imported(written(tmp_path, [pair, cut, odd]))))
    assert [[answer.cut for answer in each.answers] for each in good] == [[False, False], [False, True]]
    assert bad == ["`chosen_finish_reason` is 'max_tokens', none of stop, length, tool_calls, content_filter"]
    kept = [Kept(f"{number}.json", ranking) for number, ranking in enumerate(good)]
    lines = [json.loads(line) for line in pair_lines(kept)]
    assert [line.get("rejected_finish_reason") for line in lines] == [None, "length"]
    assert set(lines[0]) == {"prompt", "chosen", "rejected", "rater", "ranking"}
    again, _ = split(list(imported(written(tmp_path, lines))))
    assert [each.answers for each in again] == [each.answers for each in good]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match="hold no pairs"):
        list(imported(written(tmp_path, [{"messages": [{"role": "user", "content": "x"}]}])))
    with pytest.raises(HeadwaterError, match="holds no record"):
        list(imported(written(tmp_path, [])))
