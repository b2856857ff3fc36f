"""`headwater data check`: what would be trained on, and what is dropped and why."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from headwater.data_pipeline.tokens.tokenizer import save_tokenizer
from headwater.llm.examples.chat import encode_conversation
from headwater.llm.examples.conversations import split_of
from tests.headwater.command import headwater
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.examples.own_data.test_formats import RECORDS, TALK, json_lines

TOKENS = len(encode_conversation(chat_tokenizer(), TALK)[0])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(chat_tokenizer(), folder)
    return folder


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Four conversations, of which one is long, and two lines that are none."""
    long = {"instruction": "How are you? " * 50, "output": "Well."}
    rows = [RECORDS["alpaca"], {"instruction": "Hm?"}, *[RECORDS["alpaca"]] * 2, long, ["no"]]
    return json_lines(tmp_path / "chats.jsonl", rows)


def lengths(output: str, row: str) -> list[int]:
    """Minimum, median, 95th percentile and maximum of a row of the table."""
    (line,) = re.findall(rf"^.\s+{row}\s(.*)$", output, re.MULTILINE)
    return [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", line)]


def test_the_learnt_tokens_are_marked_and_what_is_dropped_is_named(chats: Path, tokenizer: Path) -> None:
    code, output = headwater("data", "check", chats, "--model", tokenizer, "--max-length", 40)
    assert code == 0
    held = sum(split_of(f"chats.jsonl:{line}") == "heldout" for line in (1, 3, 4, 5))
    told = f"{chats}: format alpaca, 4 conversations{f', {held} of them held out' if held else ''}; 2 dropped"
    assert told in output
    shown = "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n{+Well.<|im_end|>+}\n"
    assert output.count(shown) == 3
    assert [f"{chats}:{line}" in output for line in (1, 2, 3, 4, 5)] == [True, False, True, True, False]
    least, median, _, most = lengths(output, "whole")
    assert least == median == TOKENS < 40 < most
    assert "1 of 4 are longer than 40 tokens and are shortened" in output
    assert "dropped: missing_column 1, broken_line 1" in output
    assert f"{chats}, line 2: missing_column, no `output` among instruction" in output
    assert f"{chats}, line 6: broken_line" in output


def test_without_a_model_text_is_shown_and_that_is_said(chats: Path) -> None:
    code, output = headwater("data", "check", chats)
    assert code == 0 and "text instead of tokens, lengths in words" in output
    assert "user: How are you?\n{+assistant: Well.+}\n" in output
    assert lengths(output, "whole") == [4, 4, 151, 151] and "words per example" in output


def test_pairs_show_both_answers(tmp_path: Path, tokenizer: Path) -> None:
    path = json_lines(tmp_path / "pairs.jsonl", [RECORDS["hh"], {**RECORDS["hh"], "rejected": "Hm"}])
    code, output = headwater("data", "check", path, "--as", "reward", "--format", "hh", "--model", tokenizer)
    assert code == 0 and f"{path}: format hh, 1 pairs" in output
    opening = "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n"
    assert f"chosen:\n{opening}{{+Well.<|im_end|>+}}\n" in output
    assert f"rejected:\n{opening}{{+Bad.<|im_end|>+}}\n" in output
    assert f"{path}, line 2: not_messages" in output


def test_prompts_show_their_reference(tmp_path: Path, tokenizer: Path) -> None:
    path = json_lines(tmp_path / "sums.jsonl", [{"question": "1 + 1?", "answer": "#### 2"}] * 4)
    named = ["--columns", "prompt=question,completion=answer"]
    code, output = headwater("data", "check", path, "--as", "rl", *named, "--model", tokenizer)
    assert code == 0 and "4 prompts; 0 dropped" in output
    shown = "prompt:\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\nreference:\n#### 2\n"
    assert output.count(shown) == 3


def test_a_recipe_names_files_and_length(chats: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"name: mine\nstore: {tmp_path / 'store'}\n"
        f"acquire: {{sources: [{{kind: jsonl, paths: [{chats}]}}]}}\n"
        f"sft: {{data: [{{files: {chats}, format: alpaca}}]}}\nreward: {{data: [{chats}]}}\n"
    )
    code, output = headwater("data", "check", "--recipe", recipe)
    assert code == 0 and f"{chats}: format alpaca, 4 conversations" in output
    assert "The recipe's tokenizer is not there yet" in output
    code, output = headwater("data", "check", "--recipe", recipe, "--as", "reward")
    assert code == 1 and "records of the format alpaca hold no pairs of answers" in output
    code, output = headwater("data", "check", "--recipe", recipe, "--as", "rl")
    assert code == 1 and "mine: the recipe lists no own files for rl (name files, or list them in" in output


def test_a_file_of_no_use_is_an_error_and_the_others_are_shown(chats: Path, tmp_path: Path) -> None:
    mixed = json_lines(tmp_path / "mixed.jsonl", [RECORDS["alpaca"], RECORDS["messages"]])
    code, output = headwater("data", "check", mixed, chats)
    assert code == 1
    assert f"error {mixed}: the file mixes 2 formats: alpaca (line 1), messages (line 2)" in output
    assert f"{chats}: format alpaca" in output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "headwater data check: no FILE (name files, or a --recipe that lists some)"),
        (["none.jsonl"], "none.jsonl: no such file or folder"),
        (["x.jsonl", "--format", "vicuna"], "--format: Input should be 'auto', 'messages'"),
        (["x.jsonl", "--columns", "question"], "--columns question: not of the form A=B"),
        (["x.jsonl", "--columns", "question=q"], "--columns: no format has a column question"),
        (["x.jsonl", "--as", "dpo"], "--as: no such stage dpo (one of sft, reward, rl)"),
        ([__file__, "--model", "/nowhere"], "/nowhere: no tokenizer.json"),
    ],
)
def test_what_cannot_be_asked_is_one_line(arguments: list[str], told: str) -> None:
    code, output = headwater("data", "check", *arguments)
    assert code == 1 and output.startswith("error ") and told in output.replace("\n", " ")
    assert len(output.strip().splitlines()) == 1


def test_a_long_message_is_cut_in_its_middle(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "long.jsonl", [{"prompt": "Hm?", "completion": "a" * 1000 + "b" * 1000}])
    _, output = headwater("data", "check", path)
    assert re.search(r"a … \([\d,]+ more characters\) … b", output)
    assert json.dumps("a" * 900) not in output
