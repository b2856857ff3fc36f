"""Apply other thresholds to a cleaned corpus from its scores: the resulting funnel and decisions."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact, Manifest
from headwater.data_pipeline.clean.scores import SCORES, read_scores, schema
from headwater.data_pipeline.clean.select_documents import Decisions
from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.filters.filter import FilterConfig

ENGLISH_ONLY = 4
"""Last version of the stage that measured all languages as English."""
RESULT = ("id", "url")
"""Columns of the scores that identify the document of a decision."""


def config_of(corpus: Artifact) -> CleanConfig:
    """The settings that a finished `clean` artifact was made with."""
    manifest = corpus.manifest()
    if manifest is None or manifest.stage != "clean":
        raise HeadwaterError("no cleaned corpus here", where=corpus.location, fix="pass a finished output")
    if not corpus.files(SCORES, ".parquet"):
        raise HeadwaterError("this corpus has no stored scores", where=corpus.location, fix="clean it again")
    return made_with(manifest)


def made_with(manifest: Manifest) -> CleanConfig:
    """The settings of a `clean` artifact. Up to version 4, all languages were measured as English."""
    config = CleanConfig.model_validate(manifest.config)
    if manifest.stage_version > ENGLISH_ONLY:
        return config
    return config.model_copy(update={"language": config.language.model_copy(update={"per_language": False})})


def units_of(corpus: Artifact) -> list[str]:
    """Sorted names of the parts of a `clean` artifact."""
    return [PurePosixPath(name).stem for name in corpus.files(SCORES, ".parquet")]


def unread_of(corpus: Artifact) -> Mapping[str, int]:
    first: dict[str, int] = corpus.read_json("funnel.json")["steps"][0]["reasons"]
    return first


def what_if(corpus: Artifact, config: CleanConfig) -> Decisions:
    """Decide again under other settings. Raises HeadwaterError if the scores do not cover a setting."""
    made_with = config_of(corpus)
    check(made_with, config)
    return Decisions(functools.partial(read_scores, corpus), units_of(corpus), config)


def check(made_with: CleanConfig, wanted: CleanConfig) -> None:
    """Raise HeadwaterError unless the settings differ only in thresholds of rules."""
    if made_with.names() != wanted.names():
        raise _not_from_scores("filters", "a filter cannot be added or removed afterwards")
    for old, new in zip(made_with.filters, wanted.filters, strict=True):
        if old.source != new.source:
            raise _not_from_scores(f"filters.{old.name}", "its file has changed")
    for name in made_with.names():
        before: Any = made_with.settings(name)
        after: Any = wanted.settings(name)
        for setting in type(before).model_fields:
            if getattr(before, setting) == getattr(after, setting):
                continue
            if setting == "enabled":
                if not after.enabled and _is_separable(made_with, name):
                    continue
                problem = "enabled" if after.enabled else "disabled"
                raise _not_from_scores(f"{name}.enabled", f"this step cannot be {problem} afterwards")
            fixed = before.measured_with if isinstance(before, FilterConfig) else None
            loose = isinstance(before, FilterConfig) and before.last_word and not before.stricter(after)
            if loose:
                raise _not_from_scores(
                    f"{name}.{setting}", "documents that this step rejected were not measured further"
                )
            if fixed is None or setting in fixed:
                raise _not_from_scores(f"{name}.{setting}", "this setting changes the scores")
    missing = set(schema(wanted).names) - set(schema(made_with).names)
    if missing:
        raise _not_from_scores(", ".join(sorted(missing)), "not among the scores")


def _is_separable(config: CleanConfig, step: str) -> bool:
    """Whether the step can be disabled afterwards: it neither changes a text nor ends its processing."""
    if step in ("exact_dedup", "minhash_dedup"):
        return True
    found = config.filter(step)
    return bool(config.rules(step)) and not config.rewrites(step) and not (found and found.last_word)


def _not_from_scores(where: str, problem: str) -> HeadwaterError:
    return HeadwaterError(
        problem, where=where, fix="clean the original input again with `headwater clean` and this setting"
    )


def decisions_table(corpus: Artifact, decisions: Decisions) -> pa.Table:
    """id, url and decision (step, reason, score, threshold, duplicate_of) of every document."""
    tables = []
    for unit in units_of(corpus):
        names, decided = read_scores(corpus, unit, RESULT), decisions.of(unit)
        columns = [*names.columns, *decided.columns]
        tables.append(pa.Table.from_arrays(columns, names=[*RESULT, *decided.column_names]))
    return pa.concat_tables(tables)
