"""Conversations through the chat templates of five model families, and templates that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.tokens.chat_template import CHAT_TEMPLATE
from headwater.data_pipeline.tokens.tokenizer import (
    document_end_id,
    load_tokenizer,
    padding_id,
    save_tokenizer,
    special_ids,
)
from headwater.llm.examples.chat import (
    check_template,
    decode_answer,
    encode_answer,
    encode_conversation,
    encode_conversations,
    encode_prompt,
    stop_ids,
)
from tests.llm.examples.template_tokenizers import FAMILIES, family, sentencepiece, with_template

TALK = [
    {"role": "user", "content": "What did the council vote on?"},
    {"role": "assistant", "content": "The old bridge."},
    {"role": "user", "content": "When? In 2017?"},
    {"role": "assistant", "content": "On Tuesday, 12 May."},
]
SMOL = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
QWEN = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
CHATML = (
    "<|im_start|>user\nWhat did the council vote on?<|im_end|>\n"
    "<|im_start|>assistant\nThe old bridge.<|im_end|>\n"
    "<|im_start|>user\nWhen? In 2017?<|im_end|>\n"
    "<|im_start|>assistant\nOn Tuesday, 12 May.<|im_end|>\n"
)
WHOLE = {
    "chatml": CHATML,
    "llama3": "<|begin_of_text|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhat did the council vote on?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nThe old bridge.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhen? In 2017?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nOn Tuesday, 12 May.<|eot_id|>",
    "gemma": "<bos>"
    "<start_of_turn>user\nWhat did the council vote on?<end_of_turn>\n"
    "<start_of_turn>model\nThe old bridge.<end_of_turn>\n"
    "<start_of_turn>user\nWhen? In 2017?<end_of_turn>\n"
    "<start_of_turn>model\nOn Tuesday, 12 May.<end_of_turn>\n",
    "qwen2.5": QWEN + CHATML,
    "qwen3": CHATML.replace("On Tuesday", "<think>\n\n</think>\n\nOn Tuesday"),
    "smollm2": SMOL + CHATML,
}
"""TALK as each family's documentation writes it."""
ENDS = {"llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}
CONTENT = st.text(st.characters(codec="utf-8"), max_size=30) | st.text(
    " \t\n\r'.s1é\u0301x\u3000", max_size=12
)


def plain(text: str, tokenizer: Any) -> bool:
    """Whether the template would take the text as it is: no spelling of an added token."""
    return not any(token.content in text for token in tokenizer.added_tokens_decoder.values())


def talk_of(contents: list[str], system: bool = False) -> list[dict[str, str]]:
    roles = (["system"] if system else []) + ["user", "assistant"] * len(contents)
    return [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]


def stripped(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**message, "content": message["content"].strip()} for message in messages]


def templated(tokenizer: Any, messages: list[dict[str, str]], *, prompt: bool = False) -> list[int]:
    encoded = tokenizer.apply_chat_template(
        stripped(messages), add_generation_prompt=prompt, enable_thinking=False, return_dict=True
    )
    return list(encoded["input_ids"])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_conversation_has_the_published_form_and_only_answers_are_learnt(name: str) -> None:
    tokenizer = family(name)
    ids, mask = encode_conversation(tokenizer, TALK)
    assert tokenizer.decode(ids) == WHOLE[name]
    assert ids == templated(tokenizer, TALK)
    end = ENDS.get(name, "<|im_end|>")
    learnt = tokenizer.decode([token for token, taken in zip(ids, mask, strict=True) if taken])
    assert learnt == f"The old bridge.{end}On Tuesday, 12 May.{end}"
    prompt = encode_prompt(tokenizer, TALK[:3])
    assert ids[: len(prompt)] == prompt == templated(tokenizer, TALK[:3], prompt=True)
    assert sum(mask[: len(prompt)]) == len(encode_answer(tokenizer, "The old bridge."))
    assert ids[len(prompt) :][: sum(mask[len(prompt) :])] == encode_answer(tokenizer, "On Tuesday, 12 May.")


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), contents=st.lists(CONTENT, min_size=1, max_size=5), system=st.booleans())
def test_ids_are_those_of_the_template_for_any_text(
    name: str, data: st.DataObject, contents: list[str], system: bool
) -> None:
    tokenizer = family(name)
    messages = talk_of([text for text in contents if plain(text, tokenizer)], system and name != "gemma")
    if not messages or (name == "gemma" and not messages):
        return
    ids, mask = encode_conversation(tokenizer, messages)
    assert ids == templated(tokenizer, messages)
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    assert sum(mask) == sum(len(encode_answer(tokenizer, answer)) for answer in answers)
    last = messages[-1]
    if last["role"] == "assistant" and len(messages) > 1:
        prompt = encode_prompt(tokenizer, messages[:-1])
        assert ids[: len(prompt)] == prompt == templated(tokenizer, messages[:-1], prompt=True)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_text_that_spells_special_tokens_stays_text(name: str, data: st.DataObject) -> None:
    tokenizer = family(name)
    special = special_ids(tokenizer)
    spellings = st.sampled_from([*special.values(), " ", "\n", "a", "user"])
    attack = "".join(data.draw(st.lists(spellings, min_size=1, max_size=6)))
    harmless = talk_of(["x", "x"])
    ids, mask = encode_conversation(tokenizer, talk_of([attack, attack]))
    own, _ = encode_conversation(tokenizer, harmless)
    assert [i for i in ids if i in special] == [i for i in own if i in special]
    kept = tokenizer.decode([token for token, taken in zip(ids, mask, strict=True) if taken][:-1])
    assert kept == attack.strip()


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(contents=st.lists(st.text("abc é1\n", max_size=60), min_size=2, max_size=5), limit=st.integers(1, 120))
def test_long_conversations_lose_the_middle_of_prompts_first(
    name: str, contents: list[str], limit: int
) -> None:
    tokenizer = family(name)
    messages = talk_of(contents)
    whole, whole_mask = encode_conversation(tokenizer, messages)
    ids, mask = encode_conversation(tokenizer, messages, limit)
    assert len(ids) == len(mask) == min(len(whole), limit)
    emptied = [m if m["role"] == "assistant" else {**m, "content": ""} for m in messages]
    least, _ = encode_conversation(tokenizer, emptied)
    learnt = [token for token, taken in zip(ids, mask, strict=True) if taken]
    of_whole = [token for token, taken in zip(whole, whole_mask, strict=True) if taken]
    if len(least) <= limit:
        assert learnt == of_whole
    else:
        assert learnt == of_whole[: len(learnt)] and ids == least[:limit]


@pytest.mark.parametrize("name", FAMILIES)
def test_an_overlong_answer_is_cut_without_its_end(name: str) -> None:
    tokenizer = family(name)
    ids, mask = encode_conversation(tokenizer, talk_of(["Why?", "The farmers said that it rains. " * 40]), 90)
    assert len(ids) == 90 and mask[-1] == 1 and ids[-1] not in special_ids(tokenizer)
    dropped = encode_conversations(tokenizer, [talk_of(["Nobody answers."]), talk_of(["Why?", "So."])], 90)
    assert (len(dropped.conversations), dropped.kept, dropped.dropped) == (1, [1], 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_empty_conversation_is_the_assistants_header(name: str) -> None:
    tokenizer = family(name)
    assert encode_conversation(tokenizer, []) == ([], [])
    opened = tokenizer.decode(encode_prompt(tokenizer, []))
    assert opened == {
        "llama3": "<|begin_of_text|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "gemma": "<bos><start_of_turn>model\n",
        "qwen3": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    }.get(name, "<|im_start|>assistant\n")


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_end_at_the_turns_or_the_documents_end(name: str) -> None:
    tokenizer = family(name)
    end = tokenizer.convert_tokens_to_ids(ENDS.get(name, "<|im_end|>"))
    document = {"llama3": "<|end_of_text|>", "gemma": "<eos>"}.get(name, "<|endoftext|>")
    assert stop_ids(tokenizer) == (end, tokenizer.convert_tokens_to_ids(document))
    assert decode_answer(tokenizer, [*encode_answer(tokenizer, " The bridge. "), 40, 41]) == "The bridge."
    padding = padding_id(tokenizer)
    assert padding not in stop_ids(tokenizer) and padding in special_ids(tokenizer)
    assert tokenizer.convert_ids_to_tokens(padding) == {
        "chatml": "<|pad|>",
        "llama3": "<|reserved_special_token_0|>",
        "gemma": "<pad>",
        "smollm2": "<repo_name>",
    }.get(name, "<|video_pad|>")
    checked = check_template(tokenizer)
    assert (checked.turn_end, checked.system) == (ENDS.get(name, "<|im_end|>"), name != "gemma")


def test_a_vocabulary_with_one_end_and_nothing_to_spare_pads_with_it() -> None:
    tokenizer = with_template(sentencepiece(["<unk>", "</s>"]), CHAT_TEMPLATE, eos_token="</s>")
    tokenizer.unk_token = None
    assert tokenizer.convert_ids_to_tokens([document_end_id(tokenizer)]) == ["</s>"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_tokenizer_keeps_its_template_and_special_tokens(name: str, tmp_path: Path) -> None:
    tokenizer = family(name)
    save_tokenizer(tokenizer, tmp_path / "first")
    save_tokenizer(load_tokenizer(tmp_path / "first"), tmp_path / "second")  # as a model folder gets it
    AutoConfig.for_model("qwen3" if "qwen" in name else "llama").save_pretrained(tmp_path / "second")
    text = "in  2017 I'd, <|im_end|>\n\n é"
    for opened in (load_tokenizer(tmp_path / "second"), AutoTokenizer.from_pretrained(tmp_path / "second")):
        assert opened.chat_template == tokenizer.chat_template
        assert opened.special_tokens_map == tokenizer.special_tokens_map
        assert special_ids(opened) == special_ids(tokenizer)
        assert opened(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert encode_conversation(opened, TALK) == encode_conversation(tokenizer, TALK)


@pytest.mark.parametrize(
    ("roles", "fix"),
    [
        (["system", "user", "assistant"], "put the system message's text into the first user message"),
        (["user", "user"], "let user and assistant take turns"),
        (["assistant"], "let user and assistant take turns"),
    ],
)
def test_gemma_refuses_roles_in_one_line(roles: list[str], fix: str) -> None:
    messages = [{"role": role, "content": "x"} for role in roles]
    with pytest.raises(HeadwaterError, match=r"the chat template refuses the roles") as caught:
        encode_conversation(family("gemma"), messages)
    assert caught.value.fix.startswith(fix) and "\n" not in str(caught.value)


HEADER = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
UNUSABLE = {
    "no special token": (HEADER + "{{ m['content'] }}\n{% endfor %}", "no special token"),
    "dropped": (
        HEADER + "{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}<|im_end|>{% endfor %}",
        "drops",
    ),
    "repeated": (
        HEADER + "{{ m['content'] }}{{ m['content'] }}<|im_end|>{% endfor %}",
        "repeats message 1 of",
    ),
    "reversed": (
        HEADER.replace("messages", "messages[::-1]") + "{{ m['content'] }}<|im_end|>{% endfor %}",
        "moves",
    ),
    "broken": ("{% for m in messages %}{{ m.content.nothing() }}{% endfor %}", "refuses the roles user"),
    "other prompt": (
        HEADER
        + "{{ m['content'] }}<|im_end|>{% endfor %}"
        + "{% if add_generation_prompt %}<|im_start|>bot\n{% endif %}",
        "otherwise than in a conversation",
    ),
    "no prompt": (
        HEADER + "{{ m['content'] }}<|im_end|>{% endfor %}{# add_generation_prompt #}",
        "otherwise than in a conversation",
    ),
    "a part of a token": (
        HEADER + " {{ m['content'] }}<|im_end|>{% endfor %}",
        "other ids for a message alone",
    ),
}


@pytest.mark.parametrize("fault", UNUSABLE)
def test_a_template_that_cannot_be_learned_from_is_refused(fault: str) -> None:
    template, message = UNUSABLE[fault]
    space = " " if fault == "a part of a token" else ""
    opening = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n" + space + "' }}{% endif %}"
    if "add_generation_prompt" not in template:
        template += opening
    copied = with_template(family("qwen2.5").backend_tokenizer, template, eos_token="<|im_end|>")
    with pytest.raises(HeadwaterError, match=message) as caught:
        check_template(copied)
    assert caught.value.fix and "\n" not in str(caught.value)


def test_a_dummy_prefix_is_refused() -> None:
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    template = family("smollm2").chat_template
    check_template(with_template(sentencepiece(special), template, eos_token="</s>", unk_token="<unk>"))
    prefixed = sentencepiece(special, dummy_prefix=True)
    with pytest.raises(HeadwaterError, match="dummy prefix"):
        check_template(with_template(prefixed, template, eos_token="</s>", unk_token="<unk>"))


def test_a_tokenizer_without_a_template_says_what_to_set() -> None:
    bare = with_template(family("llama3").backend_tokenizer, "", eos_token="<|eot_id|>")
    bare.chat_template = None
    with pytest.raises(HeadwaterError, match=r"no chat template .*`base.chat_template`"):
        encode_prompt(bare, TALK[:1])
