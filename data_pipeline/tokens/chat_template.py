"""The special tokens and the chat template.

Conversations use ChatML, as Qwen and SmolLM2 do: `<|im_start|>role\\ncontent<|im_end|>\\n` for each
message. There are two end tokens: `<|endoftext|>` ends a document of the corpus, `<|im_end|>` ends a
turn. Generation stops at the end of a turn, so `<|im_end|>` is the tokenizer's `eos_token`. A base
model stops at `<|endoftext|>`, so engines stop at both. Padding has its own token, so that masking it
never masks a real end.
"""

from __future__ import annotations

DOCUMENT_END = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
PADDING = "<|pad|>"
SPECIAL_TOKENS = (DOCUMENT_END, TURN_START, TURN_END, PADDING)
"""In the order of their ids, 0 to 3."""

ROLES = ("system", "user", "assistant", "tool")

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
"""Jinja template. Content is trimmed, so that no token spans the header's line break and the content:
encoding a conversation at once or message by message gives the same ids. The text between the generation
marks gets 1 in `return_assistant_tokens_mask`."""
