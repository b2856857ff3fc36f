"""Token ids of a context and what follows it, equal to those of lm-evaluation-harness (`_encode_pair`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.cluster.errors import HeadwaterError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def encode_pair(
    tokenizer: PreTrainedTokenizerFast, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Ids of the context and of the continuation.

    Both are encoded as one text, because a token may depend on its neighbours; spaces at the context's end
    belong to the continuation. The continuation is what the whole has beyond the context's ids. A tokenizer
    that begins every text with a special token does so here. Without a context, this token (or the end of
    text) takes its place. Raises HeadwaterError if the continuation has no token of its own.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    if not context:
        prefix = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        ids = tokenizer.encode(continuation, add_special_tokens=False)
        return ([prefix], ids) if ids[:1] != [prefix] else (ids[:1], ids[1:])
    before = encode(tokenizer, context)
    after = encode(tokenizer, context + continuation)[len(before) :]
    if not after:
        raise HeadwaterError(
            "the tokenizer has no token for what follows the context", where=f"{context[-40:]}{continuation}"
        )
    return before, after


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids with the special tokens that the tokenizer adds, unless the text begins with them."""
    begins = bool(tokenizer.bos_token) and text.startswith(str(tokenizer.bos_token))
    return list(tokenizer.encode(text, add_special_tokens=not begins))


def fitted(prompt: list[int], after: int, context: int) -> list[int]:
    """The prompt's last ids, so that `after` more fit into the model's context. lm-eval keeps one more, since
    the last of all is not read.

    Raises HeadwaterError if not one does.
    """
    room = context - after
    if room < 1:
        raise HeadwaterError(
            f"an answer of {after} tokens does not fit into the model's context of {context}",
            where="benchmarks",
            fix="leave this benchmark out, or use a model with a longer context",
        )
    return prompt[-room:]
