"""An existing model where it lies: a Hugging Face folder on a disk, in S3 or on the hub, or a GGUF file.

Everything that can be told from names, sizes and `config.json` is checked before a weight is read.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from headwater.cluster.errors import HeadwaterError, first_line
from headwater.cluster.storage.filesystem import filesystem
from headwater.cluster.storage.hub import SCHEME, commit
from headwater.data_pipeline.sources.opening import storage_reason

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
OTHER_FILES = (
    CONFIG,
    "generation_config.json",
    "README.md",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
)
SETTING = "base.model"


@dataclass(frozen=True)
class SourceFile:
    """A file of the source, with what is known without reading it."""

    name: str
    size: int
    time: int | None
    """Modification time in nanoseconds."""


@dataclass(frozen=True)
class ModelFolder:
    """A Hugging Face folder at a location, or one GGUF file."""

    location: str
    files: tuple[SourceFile, ...]
    revision: str = ""
    """Commit on the hub; empty elsewhere."""

    @property
    def gguf(self) -> bool:
        return self.location.endswith(".gguf")

    def fingerprint(self) -> dict[str, Any]:
        """What the content depends on: the hub's commit, or names, sizes and times of the files."""
        if self.revision:
            return {"revision": self.revision}
        return {"files": [[file.name, file.size, file.time] for file in self.files]}

    def copy(self, name: str, target: Path) -> None:
        """Copy one file to a local path."""
        fs, root = filesystem(self.location)
        with (
            fs.open_input_stream(root if self.gguf else f"{root}/{name}") as source,
            target.open("wb") as out,
        ):
            shutil.copyfileobj(source, out, 8 << 20)

    def read_json(self, name: str) -> Any:
        fs, root = filesystem(self.location)
        try:
            with fs.open_input_stream(f"{root}/{name}") as stream:
                return json.loads(stream.read())
        except ValueError as error:
            raise HeadwaterError(
                f"not valid JSON ({error})", where=f"{self.location}/{name}", fix="restore the file"
            ) from error

    def wanted(self) -> list[str]:
        """Names of the files that an artifact gets: config, safetensors, tokenizer, licence."""
        names = [file.name for file in self.files]
        return [name for name in names if name in (*OTHER_FILES, *TOKENIZER_FILES)] + self._weights(names)

    def _weights(self, names: list[str]) -> list[str]:
        if INDEX in names:
            shards = sorted(set(self.read_json(INDEX)["weight_map"].values()))
            missing = [shard for shard in shards if shard not in names]
            if missing:
                raise HeadwaterError(
                    f"{len(missing)} of {len(shards)} weight files are missing: {', '.join(missing[:3])}",
                    where=self.location,
                    fix="complete the folder",
                )
            return [INDEX, *shards]
        if WEIGHTS in names:
            return [WEIGHTS]
        if any(name.endswith(PICKLED) for name in names):
            raise HeadwaterError(
                "the weights are pickled files, which can run code when they are opened",
                where=self.location,
                fix="save them as safetensors: AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)",
            )
        gguf = [name for name in names if name.endswith(".gguf")]
        fix = f"name the file: {self.location}/{gguf[0]}" if gguf else f"add {WEIGHTS}"
        raise HeadwaterError("the folder has no safetensors weights", where=self.location, fix=fix)


def find_model(location: str) -> ModelFolder:
    """List a model and check what can be checked without its weights.

    Raises HeadwaterError for a folder that does not exist or has no `config.json`, for a model that does not
    write text, and for weights that are missing or pickled.
    """
    found = listed(location)
    if found.gguf:
        return found
    names = {file.name for file in found.files}
    if CONFIG not in names:
        what = "there is no such folder, or it is empty" if not names else f"the folder has no {CONFIG}"
        if "adapter_config.json" in names:
            what += "; it is an adapter without its model"
        raise HeadwaterError(
            what, where=location, fix=f"set `{SETTING}` to the folder of a Hugging Face model"
        )
    check_causal(found.read_json(CONFIG), location)
    found.wanted()
    if not names & set(VOCABULARIES):
        raise HeadwaterError(
            "the folder has no tokenizer", where=location, fix=f"add one of {', '.join(VOCABULARIES)}"
        )
    return found


def check_causal(config: dict[str, Any], location: str) -> None:
    """Raises HeadwaterError unless AutoModelForCausalLM opens such a model without code of its own."""
    architecture = (config.get("architectures") or [""])[0]
    kind = str(config.get("model_type", ""))
    if architecture.endswith(("ForCausalLM", "LMHeadModel")) and "auto_map" not in config:
        return  # saves the seconds of importing transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        own = "auto_map" in config
        raise HeadwaterError(
            f"{kind or 'this model'} needs code of its own, which is not run"
            if own
            else f"{architecture or kind or 'this'} is not a causal language model that transformers knows",
            where=f"{location}/{CONFIG}",
            fix="choose a model that AutoModelForCausalLM opens, such as Llama or Qwen",
        )
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    if architecture and architecture not in ((known,) if isinstance(known, str) else known):
        raise HeadwaterError(
            f"{architecture} is not a causal language model",
            where=f"{location}/{CONFIG}",
            fix=f"choose a model of the architecture {known}, or another one",
        )


def listed(location: str) -> ModelFolder:
    """The files of a folder, or one GGUF file. Raises HeadwaterError if the storage does not answer."""
    try:
        revision = ""
        if location.startswith(SCHEME):
            location, revision = commit(location)
        fs, path = filesystem(location)
        if location.endswith(".gguf"):
            info = fs.get_file_info(path)
            if info.type != pafs.FileType.File:
                raise HeadwaterError("there is no such file", where=location, fix=f"correct `{SETTING}`")
            infos = [info]
        else:
            infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    except (OSError, LookupError) as error:
        reason = storage_reason(error) if isinstance(error, OSError) else "not_found"
        raise HeadwaterError(
            f"the model cannot be read: {reason} ({first_line(error)})",
            where=location,
            fix=f"correct `{SETTING}`, or the credentials",
        ) from error
    files = sorted((i for i in infos if i.type == pafs.FileType.File), key=lambda info: str(info.path))
    return ModelFolder(location, tuple(SourceFile(i.base_name, i.size, i.mtime_ns) for i in files), revision)
