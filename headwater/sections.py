"""Rules between sections of a recipe, checked when it is read. A section that is absent breaks none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headwater.llm.model.architecture import ARCHITECTURES, with_feature
from headwater.llm.model.shape import ModelConfig
from headwater.llm.rl.rewards.made_tasks import SEARCH
from headwater.llm.rl.rewards.verifiers import CITATIONS
from headwater.llm.stages.pretrain import check_cuts, check_sharing


def contradictions(sections: Mapping[str, Any]) -> list[str]:
    """What the sections' settings cannot be together. `sections`: name → config, None if absent.

    Raises HeadwaterError for rows or layers that cannot be divided as configured.
    """
    tokenize, pretrain = sections.get("tokenize"), sections.get("pretrain")
    if tokenize is not None and pretrain is not None:
        check_cuts(pretrain, tokenize.row_length)
    found = [*_of_base(sections), *_of_rl(sections), *_of_search(sections), *_of_mixture(sections)]
    return found or list(_of_fresh_model(sections))


def _of_base(sections: Mapping[str, Any]) -> Iterator[str]:
    pretrain = sections.get("pretrain")
    if sections.get("base") is None:
        return
    if sections.get("tokenizer") is not None:
        yield "base brings its own tokenizer: remove the section tokenizer"
    if pretrain is not None and pretrain.model != ModelConfig():
        yield "base has its own shape: remove pretrain.model"


def _of_rl(sections: Mapping[str, Any]) -> Iterator[str]:
    rl = sections.get("rl")
    if rl is None:
        return
    if not rl.verifiers() and sections.get("reward") is None:
        yield "rl has nothing to maximise: name `rl.verifier`, or add a section `reward`"
    made = rl.prompts or rl.task not in (None, SEARCH)
    if CITATIONS in rl.verifiers() and (made or sections.get("grounded") is None):
        fix = "add a section `grounded`, without `rl.prompts`, or choose another verifier"
        yield f"`rl.verifier: {CITATIONS}` scores tasks with passages alone: {fix}"


def _of_search(sections: Mapping[str, Any]) -> Iterator[str]:
    for name in ("sft", "rl"):
        section = sections.get(name)
        if section is not None and section.task == SEARCH and sections.get("grounded") is None:
            yield f"`{name}.task: {SEARCH}` asks the questions of the section `grounded`: add it"


def _of_mixture(sections: Mapping[str, Any]) -> Iterator[str]:
    tokenize, pretrain = sections.get("tokenize"), sections.get("pretrain")
    if tokenize is None or pretrain is None:
        return
    names = [corpus.name for corpus in tokenize.corpora]
    if unknown := sorted(pretrain.mixture.keys() - set(names)):
        yield (
            f"pretrain.mixture has weights for {', '.join(unknown)}, "
            f"but tokenize.corpora names {', '.join(names) or 'none'}"
        )


def _of_architecture(model: ModelConfig, sections: Mapping[str, Any]) -> Iterator[str]:
    """What transformers or peft lacks for an architecture."""
    own, name = ARCHITECTURES[model.architecture], model.architecture
    if not own.scores and sections.get("reward") is not None:
        yield (
            f"transformers has no reward model of {name}: choose an `architecture` of "
            f"{with_feature('scores')}, or remove the section reward and give rl a verifier"
        )
    for stage in ("sft", "dpo", "rl"):
        lora = getattr(sections.get(stage), "lora", None)
        if lora is not None and (missing := sorted(set(lora.targets) - set(own.matrices))):
            yield (
                f"`{stage}.lora.targets`: {name} has no {', '.join(missing)}; choose of "
                f"{', '.join(own.matrices)}"
            )


def _of_fresh_model(sections: Mapping[str, Any]) -> Iterator[str]:
    """Settings against the context of the model that the recipe makes. Another base has limits of its own."""
    tokenize, pretrain, base = (sections.get(name) for name in ("tokenize", "pretrain", "base"))
    model: ModelConfig
    if base is not None and base.fresh is not None:
        model, context, where = base.fresh, base.fresh.context, "`base.fresh.context`"
    elif pretrain is not None and base is None:
        model, context, where = pretrain.model, pretrain.model.context, "`pretrain.model.context`"
    else:
        return
    yield from _of_architecture(model, sections)
    if tokenize is not None and tokenize.row_length > context:
        yield f"`tokenize.row_length` ({tokenize.row_length}) is above {where} ({context})"
    for name in ("sft", "dpo", "reward"):
        section = sections.get(name)
        if section is not None and section.max_length > context:
            yield f"`{name}.max_length` ({section.max_length}) is above {where} ({context})"
    rl = sections.get("rl")
    if rl is not None and rl.max_new_tokens >= context:
        yield (
            f"`rl.max_new_tokens` ({rl.max_new_tokens}) leaves no room for a prompt: choose less than "
            f"{where} ({context})"
        )
    if tokenize is not None and pretrain is not None and base is None:
        vocab_size = getattr(sections.get("tokenizer"), "vocab_size", 1)
        check_sharing(pretrain, vocab_size=vocab_size, row_length=tokenize.row_length)
