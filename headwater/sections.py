"""Rules between sections of a recipe, checked when it is read. A section that is absent breaks none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.llm.rl.verifiers import CITATIONS
from headwater.llm.stages.pretrain import check_sharing


def contradictions(sections: Mapping[str, Any]) -> list[str]:
    """What the sections' settings cannot be together. `sections`: name → config, None if absent.

    Raises HeadwaterError for workers that cannot share rows or layers.
    """
    rl = sections.get("rl")
    if rl is not None and rl.verifier_name() is None and sections.get("reward") is None:
        return ["rl has nothing to maximise: name `rl.verifier`, or add a section `reward`"]
    if rl is not None and rl.verifier_name() == CITATIONS and (rl.prompts or not sections.get("grounded")):
        fix = "add a section `grounded`, without `rl.prompts`, or choose another verifier"
        return [f"`rl.verifier: {CITATIONS}` scores tasks with passages alone: {fix}"]
    tokenize, pretrain = sections.get("tokenize"), sections.get("pretrain")
    if pretrain is None or sections.get("base") is not None:  # a base model has limits of its own
        return []
    found = []
    context, where = pretrain.model.context, "`pretrain.model.context`"
    if tokenize is not None and tokenize.row_length > context:
        found.append(f"`tokenize.row_length` ({tokenize.row_length}) is above {where} ({context})")
    for name in ("sft", "dpo", "reward"):
        section = sections.get(name)
        if section is not None and section.max_length > context:
            found.append(f"`{name}.max_length` ({section.max_length}) is above {where} ({context})")
    if rl is not None and rl.max_new_tokens >= context:
        found.append(
            f"`rl.max_new_tokens` ({rl.max_new_tokens}) leaves no room for a prompt: choose less than "
            f"{where} ({context})"
        )
    if tokenize is not None:
        vocab_size = getattr(sections.get("tokenizer"), "vocab_size", 1)
        check_sharing(pretrain, vocab_size=vocab_size, row_length=tokenize.row_length)
    return found
