"""The setting of a list of own files, the files that it names, and what their content's identity is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from headwater.cluster.runtime.stage import StageConfig
from headwater.data_pipeline.sources.listing import SUFFIXES, InputFile, files_at

Format = Literal["auto", "messages", "alpaca", "sharegpt", "prompt_completion", "oasst", "hh", "preference"]

COLUMNS = (
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "history",
    "system",
    "prompt",
    "completion",
    "reference",
    "chosen",
    "rejected",
    "chosen_finish_reason",
    "rejected_finish_reason",
)
"""Names of the parts of a record that formats read."""


class DataSource(StageConfig):
    """Own files of one format. A string instead of a section is the name of a file, all else by default."""

    files: tuple[str, ...] = Field(min_length=1)
    """Files, folders, globs (`chats/*.jsonl`), `http(s)://` URLs, `s3://bucket/key` or
    `hf://datasets/owner/name/path` names of JSON Lines, JSON arrays or Parquet (.gz, .zst)."""
    format: Format = "auto"
    """What a record looks like. `auto` tells it from the first records of each file."""
    columns: dict[str, str] = {}
    """Names of the file's columns where they differ from the format's: `{prompt: question}`."""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """How often each record of this source is seen, relative to records of weight 1."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"files": (value,)}
        if isinstance(value, dict) and isinstance(value.get("files"), str):
            return value | {"files": (value["files"],)}
        return value

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, value: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(value.keys() - set(COLUMNS)):
            raise ValueError(f"no format has a column {', '.join(unknown)}; there are {', '.join(COLUMNS)}")
        return value


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple) and not value:
        raise ValueError("the list is empty: name a file in it, or remove the key")
    return value


DataSources = Annotated[tuple[DataSource, ...], BeforeValidator(_listed)]
"""The type of a setting that lists own files; an empty list is an error."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a list of sources."""

    number: int
    """Position of its source in the list."""
    source: DataSource
    path: str
    identity: tuple[Any, ...] = ()
    """Size and modification time; empty if unknown without reading."""


def list_files(sources: Sequence[DataSource], setting: str = "data") -> list[SourceFile]:
    """All files of the sources, in order. `setting` names the recipe's key in errors.

    Raises HeadwaterError for a local path that does not exist, or a folder without a file of these kinds.
    Missing remote files are reported when they are read.
    """
    return [
        SourceFile(number, source, file.path, file.identity)
        for number, source in enumerate(sources)
        for file in _files_of(source, setting)
    ]


def _files_of(source: DataSource, setting: str) -> list[InputFile]:
    suffixes = SUFFIXES["jsonl"] + SUFFIXES["parquet"]
    return files_at(source.files, suffixes, f"correct `{setting}`")


def fingerprint(sources: Sequence[DataSource], setting: str = "data") -> dict[str, Any]:
    """Changes with the name, size or modification time of any file, without reading them."""
    files = list_files(sources, setting)
    digest = hashlib.sha256(repr([(f.number, f.path, f.identity) for f in files]).encode())
    return {"files": len(files), "sha256": digest.hexdigest()}
