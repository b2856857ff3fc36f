"""The special tokens and the chat template: the one place where both are written down.

A conversation is ChatML, as Qwen and SmolLM2 use it: `<|im_start|>role\\ncontent<|im_end|>\\n` for
every message. Two tokens end things, and they are not the same one: `<|endoftext|>` closes a
document of the corpus, `<|im_end|>` closes a turn. Generation has to stop at the end of a turn,
so `<|im_end|>` is the tokenizer's `eos_token`; a model that has only read documents stops at
`<|endoftext|>`, so engines take both as stops. Padding has a token of its own, so that masking it
never masks a real end.
"""

from __future__ import annotations

DOCUMENT_END = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
PADDING = "<|pad|>"
SPECIAL_TOKENS = (DOCUMENT_END, TURN_START, TURN_END, PADDING)
"""In the order of their ids, 0 to 3."""

ROLES = ("system", "user", "assistant")

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- generation %}{{- (message['content'] | trim) + '<|im_end|>' }}{%- endgeneration %}"
    "{%- else %}"
    "{{- (message['content'] | trim) + '<|im_end|>' }}"
    "{%- endif %}"
    "{{- '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""Jinja. Content is trimmed, so that a token never spans the header's line break and the content:
whoever encodes a conversation, at once or message by message, gets the same ids. What lies
between the generation marks is what `return_assistant_tokens_mask` marks with 1."""
