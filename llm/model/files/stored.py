"""Weights of a stored model, read by ranges of bytes: on a disk or in S3, a worker reads what it keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Folder
from headwater.cluster.storage.filesystem import filesystem
from headwater.llm.model.files.source import INDEX, WEIGHTS

if TYPE_CHECKING:
    import torch

    from headwater.llm.model.origins import Origin

TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Number formats of safetensors that are read by ranges."""
CHUNK = 4 << 20
"""Bytes read at a time."""
LONGEST_HEADER = 100 << 20
"""The limit of the safetensors format."""


class TensorFile:
    """The header of a safetensors file, and the file itself, open.

    Raises HeadwaterError for a file that is cut off or is no safetensors file.
    """

    def __init__(self, location: str) -> None:
        fs, path = filesystem(location)
        self.location, self.stream = location, fs.open_input_file(path)
        size = self.stream.size()
        length = int.from_bytes(self.stream.read_at(8, 0), "little")
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise self._fault("is not a safetensors file")
        try:
            header: dict[str, Any] = json.loads(self.stream.read_at(length, 8))
            header.pop("__metadata__", None)
            self.tensors = {
                name: (str(told["dtype"]), tuple(told["shape"]), 8 + length + told["data_offsets"][0])
                for name, told in header.items()
            }
            end = 8 + length + max((told["data_offsets"][1] for told in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._fault("has no valid header") from error
        if end != size:
            raise self._fault(f"has {size:,} bytes in place of {end:,}")

    def read(self, position: int, buffer: torch.Tensor) -> None:
        """Fill a tensor of bytes from `position` on."""
        view = buffer.numpy().data
        self.stream.seek(position)
        while view:
            got = self.stream.readinto(view)
            if not got:
                raise self._fault("is shorter than when it was opened")
            view = view[got:]

    def _fault(self, what: str) -> HeadwaterError:
        return HeadwaterError(f"the file {what}", where=self.location, fix="copy or make the model again")


@dataclass(frozen=True)
class Stored:
    """A tensor of a file."""

    file: TensorFile
    name: str

    def read(self, start: int, into: torch.Tensor) -> None:
        import torch

        kind, _, offset = self.file.tensors[self.name]
        dtype = getattr(torch, TYPES[kind])
        step = CHUNK // dtype.itemsize
        buffer = torch.empty(min(CHUNK, into.numel() * dtype.itemsize), dtype=torch.uint8)
        for first in range(0, into.numel(), step):
            part = into[first : first + step]
            own = buffer[: part.numel() * dtype.itemsize]
            self.file.read(offset + (start + first) * dtype.itemsize, own)
            part.copy_(own.view(dtype))


def origins_in(folder: Folder, model: torch.nn.Module) -> dict[str, Origin]:
    """Parameter of the model → its tensor in the folder's files, of those that have one.

    Empty if the files must be read as a whole: transformers renames or converts their tensors, shapes or
    number formats differ, or the model has buffers that are stored.
    """
    if not by_own_names(model):
        return {}
    parameters: dict[str, Any] = dict(model.named_parameters())
    found: dict[str, Origin] = {}
    for file in _files(folder):
        for name, (kind, shape, _) in file.tensors.items():
            if name in parameters:
                if kind not in TYPES or shape != tuple(parameters[name].shape):
                    return {}
                found[name] = Stored(file, name)
    return found


def by_own_names(model: Any) -> bool:
    """Whether a model's files have its parameters under its own names, and nothing else."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    named = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name for name, _ in model.named_buffers()} & model.state_dict().keys()
    return not buffers - named and not get_model_conversion_mapping(model, add_legacy=False)


def header(tensors: Mapping[str, tuple[str, tuple[int, ...], int]]) -> bytes:
    """The start of a safetensors file: name → number format, shape, bytes. The tensors follow in order."""
    told: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, size) in tensors.items():
        told[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(told).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _files(folder: Folder) -> list[TensorFile]:
    artifact = folder.artifact
    names = [WEIGHTS]
    if artifact.exists(f"{folder.name}/{INDEX}"):
        names = sorted(set(artifact.read_json(f"{folder.name}/{INDEX}")["weight_map"].values()))
    elif not artifact.exists(f"{folder.name}/{WEIGHTS}"):
        return []
    return [TensorFile(artifact.path(f"{folder.name}/{name}")) for name in names]
