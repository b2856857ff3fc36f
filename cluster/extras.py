"""What the package's extras install, and the error where one is missing.

The core is what `headwater clean` needs. Training and serving are extras, since torch alone is a gigabyte.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterable

from headwater.cluster.errors import HeadwaterError

EXTRAS = {
    "train": (
        "torch",
        "deepspeed",
        "transformers",
        "peft",
        "tokenizers",
        "gigatoken",
        "gguf",
        "tensorboardX",
    ),
    "serve": ("torch", "transformers", "tokenizers", "fastapi", "lancedb", "wordllama", "llguidance"),
    "openvino": ("openvino",),
    "qlora": ("bitsandbytes",),
    "languages": ("jieba", "sudachipy", "sudachidict_core", "pythainlp"),
    "ocr": ("rapidocr", "onnxruntime"),
}
"""Import names that an extra of pyproject.toml installs; `fastapi` comes with `ray[serve]`. Not here:
prometheus_client, which `ray[default]` brings in any case."""


def require(*extras: str, only: Collection[str] | None = None) -> None:
    """Raises HeadwaterError unless everything that these extras install can be imported, or those named."""
    every = (name for extra in extras for name in EXTRAS[extra])
    wanted = dict.fromkeys(name for name in every if only is None or name in only)
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise _missing(missing, extras)


def missing_extra(error: BaseException) -> HeadwaterError | None:
    """The extra to install where `error` is a failed import of something that one installs; else None."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    package = (error.name or "").partition(".")[0]
    extra = next((name for name, packages in EXTRAS.items() if package in packages), None)
    return _missing([package], [extra]) if extra else None


def _missing(packages: Iterable[str], extras: Iterable[str]) -> HeadwaterError:
    return HeadwaterError(
        f"this needs packages that are not installed: {', '.join(packages)}",
        fix=f"pip install 'headwater[{','.join(extras)}]'",
    )
