"""Pairs from the corpus and rankings from people."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.store import Store
from headwater.llm.examples import rankings
from headwater.llm.examples.chat import encode_answer, encode_prompt
from headwater.llm.examples.conversations import HELDOUT_SHARE
from headwater.llm.examples.preferences import (
    RANKINGS,
    LeftOut,
    Preference,
    encode_pair,
    headline_pairs,
    rankings_fingerprint,
    read_rankings,
    save_ranking,
    split_of_prompt,
)
from tests.llm.chat_tokenizer import chat_tokenizer

PROMPT = [{"role": "user", "content": "Write a headline."}]


def documents(count: int) -> list[dict[str, str]]:
    return [
        {"id": f"d{i}", "url": "", "title": f"Bridge number {i} rebuilt", "text": f"Bridge {i} was rebuilt."}
        for i in range(count)
    ]


def save(store: Store, chosen: str = "Good", rejected: str = "Bad") -> str:
    return save_ranking(store.location, PROMPT, chosen, rejected, model="m", source="console")


def test_each_true_headline_is_set_against_another_articles() -> None:
    pairs = headline_pairs(documents(50), seed=1)
    assert len(pairs) == 50
    for number, pair in enumerate(pairs):
        assert pair.chosen == f"Bridge number {number} rebuilt"
        assert pair.rejected != pair.chosen and pair.rejected.startswith("Bridge number")
        assert f"Bridge {number} was" in pair.prompt[0]["content"] and len(pair.prompt) == 1
    assert len({pair.rejected for pair in pairs}) > 25  # spread over the articles
    assert headline_pairs(documents(50), seed=1) == pairs
    assert headline_pairs(documents(50), seed=2) != pairs


def test_one_headline_alone_makes_no_pair() -> None:
    assert headline_pairs(documents(1), seed=0) == []
    assert headline_pairs([documents(1)[0]] * 3, seed=0) == []


def test_a_ranking_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    location = save(store)
    assert Path(location).parent == tmp_path / RANKINGS
    assert read_rankings(store) == [Preference(PROMPT, "Good", "Bad", "console")]
    kept = json.loads(Path(location).read_text())
    assert kept["model"] == "m" and kept["time"]


def test_no_end_of_turn_is_learnt_of_an_answer_that_was_cut(tmp_path: Path) -> None:
    store, answers = Store(str(tmp_path)), [{"text": "Good"}, {"text": "Bad, bec", "finish_reason": "length"}]
    for ranks in ([1, 2], [2, 1]):
        told = {"prompt": PROMPT, "answers": answers, "ranks": ranks, "rater": "a", "source": "console"}
        rankings.save(store, rankings.parse(told))
    rejected, chosen = read_rankings(store)
    assert (rejected.cut, chosen.cut) == (("rejected",), ("chosen",))
    for pair in (rejected, chosen):
        encoded = encode_pair(chat_tokenizer(), pair, 100)
        ended = [chat_tokenizer().decode(encoded[side]) for side in ("chosen", "rejected")]
        assert sorted(ended) == ["Bad, bec", "Good<|im_end|>"]
    with pytest.raises(LeftOut) as why:
        encode_pair(chat_tokenizer(), Preference(PROMPT, " ", "Bad", "own", cut=("chosen",)), 100)
    assert why.value.reason == "no_tokens"


def test_a_ranking_without_finish_reasons_has_the_file_that_it_always_had(tmp_path: Path) -> None:
    told = {"prompt": PROMPT, "answers": [{"text": "a"}, {"text": "b"}], "ranks": [1, 2], "rater": "r"}
    ranking = rankings.parse(told | {"source": "x", "time": rankings.UNKNOWN_TIME})
    assert (
        Path(rankings.save(Store(str(tmp_path)), ranking)).name
        == "00010101T000000000000Z-4ed7d14812320ea1.json"
    )


def test_an_empty_store_has_no_rankings(tmp_path: Path) -> None:
    assert read_rankings(Store(str(tmp_path))) == []
    assert rankings_fingerprint(Store(str(tmp_path)))["rankings"] == 0


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda number: save(store, f"Good {number}"), range(40)))
    assert len(set(places)) == 40
    assert {found.chosen for found in read_rankings(store)} == {f"Good {number}" for number in range(40)}
    assert not list((tmp_path / RANKINGS).glob("*.tmp"))


def test_a_bad_file_is_named_and_the_others_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(str(tmp_path))
    save(store)
    folder = tmp_path / RANKINGS
    (folder / "0-half.json").write_text('{"prompt": [')
    (folder / "1-list.json").write_text("[]")
    (folder / "2-empty.json").write_text(
        json.dumps({"prompt": PROMPT, "chosen": " ", "rejected": "b", "source": "x"})
    )
    (folder / "3-bytes.json").write_bytes(b"\xff\xff")
    bad: dict[str, str] = {}
    assert len(read_rankings(store, bad)) == 1
    assert [Path(name).name for name in bad] == ["0-half.json", "1-list.json", "2-empty.json", "3-bytes.json"]
    assert "`chosen` is not a non-empty string" in bad[str(folder / "2-empty.json")]
    assert "0-half.json" in caplog.text


def test_the_fingerprint_changes_with_every_ranking(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    seen = [rankings_fingerprint(store)]
    for _ in range(3):
        save(store)
        seen.append(rankings_fingerprint(store))
    assert [found["rankings"] for found in seen] == [0, 1, 2, 3]
    assert len({found["rankings_sha256"] for found in seen}) == 4
    assert rankings_fingerprint(store) == seen[-1]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "fault"),
    [
        (PROMPT, "", "b", "`chosen`"),
        (PROMPT, "same", "same", "both answers are equal"),
        ([], "a", "b", "not a non-empty list"),
        ([*PROMPT, {"role": "assistant", "content": "a"}], "a", "b", "ends with an assistant"),
    ],
)
def test_a_ranking_that_teaches_nothing_is_refused(
    tmp_path: Path, prompt: list[dict[str, str]], chosen: str, rejected: str, fault: str
) -> None:
    with pytest.raises(HeadwaterError, match=fault):
        save_ranking(str(tmp_path), prompt, chosen, rejected, model="m", source="console")
    assert not (tmp_path / RANKINGS).exists()


ARTICLE = [{"role": "user", "content": "The council voted on Tuesday to rebuild the old bridge. " * 4}]


def test_both_answers_follow_the_same_prompt_shortened_for_the_longer_one() -> None:
    tokenizer, pair = chat_tokenizer(), Preference(ARTICLE, "Council rebuilds bridge", "Rain", "headline")
    whole, short = encode_pair(tokenizer, pair, 1000), encode_pair(tokenizer, pair, 60)
    longer = max(len(short["chosen"]), len(short["rejected"]))
    assert len(short["prompt"]) + longer == 60 < len(whole["prompt"])
    assert tokenizer.decode(short["prompt"]).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(short["chosen"]) == "Council rebuilds bridge<|im_end|>"
    assert tokenizer.decode(short["rejected"]) == "Rain<|im_end|>"


def test_answers_that_differ_only_beyond_the_limit_are_left_out_and_not_cut() -> None:
    news = "It's raining again. " * 20
    pair = Preference(PROMPT, f"{news}Good.", f"{news}Bad.", "own")
    assert len(encode_pair(chat_tokenizer(), pair, 500)["chosen"]) > 100
    with pytest.raises(LeftOut) as why:
        encode_pair(chat_tokenizer(), pair, 100)
    assert why.value.reason == "too_long" and "`max_length` 100" in why.value.detail


def test_a_long_conversation_keeps_its_last_turns_before_both_answers() -> None:
    system = {"role": "system", "content": "Be brief."}
    turns = [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Yes."}] * 30
    tokenizer = chat_tokenizer()
    pair, kept = (
        Preference([system, *turns, PROMPT[0]], "Good", "Bad", "own"),
        [system, *turns[:2], PROMPT[0]],
    )
    room = len(encode_prompt(tokenizer, kept)) + len(encode_answer(tokenizer, "Good"))
    assert encode_pair(tokenizer, pair, room)["prompt"] == encode_prompt(tokenizer, kept)
    assert encode_pair(tokenizer, pair, room - 1)["prompt"] == encode_prompt(tokenizer, [system, PROMPT[0]])


def test_answers_of_the_same_tokens_are_left_out() -> None:
    with pytest.raises(LeftOut) as why:
        encode_pair(chat_tokenizer(), Preference(PROMPT, "Rain again", " Rain again\n", "own"), 100)
    assert why.value.reason == "equal_answers"


def test_a_template_that_refuses_the_prompt_is_an_error_and_not_a_pair_too_long() -> None:
    tokenizer = copy.deepcopy(chat_tokenizer())
    tokenizer.chat_template = "{{ raise_exception('no chat today') }}"
    with pytest.raises(HeadwaterError, match="no chat today"):
        encode_pair(tokenizer, Preference(PROMPT, "Good", "Bad", "own"), 100)


def test_a_tenth_of_the_prompts_is_held_out_however_their_space_around_is() -> None:
    prompts = [[{"role": "user", "content": f"Question {number}?"}] for number in range(1000)]
    splits = [split_of_prompt(prompt) for prompt in prompts]
    assert abs(splits.count("heldout") / 1000 - HELDOUT_SHARE) < 0.03
    spaced = [[{"role": "user", "content": f" {prompt[0]['content']}\n"}] for prompt in prompts]
    assert [split_of_prompt(prompt) for prompt in spaced] == splits
