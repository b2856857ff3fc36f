"""Export a trained model from the store: as a Hugging Face folder, or as a GGUF file."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Literal, get_args

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.llm.model.files.gguf import PRECISIONS, Precision, write_gguf

Format = Literal["hf", "gguf"]
FORMATS: tuple[Format, ...] = get_args(Format)
MODEL = "model"
PARITY = "parity.json"
"""Log-probabilities of the weights in fp32 (`llm/inference/parity.py`)."""


def export(model: Artifact, output: str, format_: str, precision: str | None = None) -> str:
    """Write the model of a training stage into the folder `output` (local or s3://); returns its location.

    Existing files are never replaced. Raises HeadwaterError if something is already there.
    """
    if format_ not in FORMATS:
        raise HeadwaterError(
            f"unknown format {format_}", where="--format", fix=f"one of {', '.join(FORMATS)}"
        )
    if precision is not None and precision not in PRECISIONS:
        fix = f"one of {', '.join(PRECISIONS)}"
        raise HeadwaterError(f"unknown precision {precision}", where="--precision", fix=fix)
    if not model.exists(f"{MODEL}/config.json"):
        raise HeadwaterError(
            "there is no trained model in this artifact",
            where=model.location,
            fix="name a finished artifact of pretrain, sft, reward or rl",
        )
    with tempfile.TemporaryDirectory(prefix="headwater-") as scratch:
        if format_ == "gguf":
            return _export_gguf(model, Artifact(output), Path(scratch), _known(precision))
        return _export_folder(model, Artifact(output), Path(scratch), _known(precision))


def _known(precision: str | None) -> Precision | None:
    return next((known for known in PRECISIONS if known == precision), None)


def _export_gguf(model: Artifact, output: Artifact, scratch: Path, precision: Precision | None) -> str:
    name = f"headwater-{model.stage}-{model.key[:8]}".rstrip("-")
    made = write_gguf(model.local(MODEL), scratch / "model.gguf", name=name, precision=precision)
    file = f"{name}-{made}.gguf"
    if output.exists(file):
        raise _in_the_way(output.path(file))
    _copy(scratch / "model.gguf", output, file)
    return output.path(file)


def _export_folder(model: Artifact, output: Artifact, scratch: Path, precision: Precision | None) -> str:
    if output.files():
        raise _in_the_way(output.location)
    source = model.local(MODEL)
    if precision is not None:
        source = _converted(source, scratch, precision)
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        _copy(path, output, str(path.relative_to(source)))
    return output.location


def _converted(source: Path, scratch: Path, precision: Precision) -> Path:
    """A copy of the folder with its weights in another precision."""
    import torch
    from transformers import AutoConfig
    from transformers.models.auto import AutoModelForCausalLM, AutoModelForSequenceClassification

    types = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    if precision not in types:
        raise HeadwaterError(
            f"only GGUF files can have the precision {precision}",
            where="--precision",
            fix="choose --format gguf",
        )
    architecture = AutoConfig.from_pretrained(str(source), local_files_only=True).architectures[0]
    causal = architecture.endswith("ForCausalLM")
    opener = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    opened = opener.from_pretrained(str(source), dtype=types[precision], local_files_only=True)
    shutil.copytree(
        source, scratch / "folder", ignore=shutil.ignore_patterns("*.safetensors", "*.index.json", PARITY)
    )
    opened.save_pretrained(scratch / "folder")
    return scratch / "folder"


def _copy(path: Path, output: Artifact, name: str) -> None:
    with path.open("rb") as source, output.create(name) as stream:
        shutil.copyfileobj(source, stream, 8 << 20)


def _in_the_way(where: str) -> HeadwaterError:
    return HeadwaterError("the output already exists", where=where, fix="choose another --output")
