"""Text embeddings of unit length (dot product = cosine). Models are never downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from headwater.cluster.errors import HeadwaterError

if TYPE_CHECKING:
    import numpy as np

WORDLLAMA = "wordllama"
BATCH = 64


class Embedder(Protocol):
    dimensions: int

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [texts, dimensions], rows of unit length (zero for a text without words)."""
        ...


def load_embedder(name: str) -> Embedder:
    """Load `wordllama` (weights included) or an encoder model's folder. HeadwaterError if missing."""
    if name == WORDLLAMA:
        return WordLlamaEmbedder()
    if not (Path(name) / "config.json").is_file():
        raise HeadwaterError(
            "no such embedding model", where=name, fix=f"use `{WORDLLAMA}` or the folder of an encoder model"
        )
    return EncoderEmbedder(name)


class WordLlamaEmbedder:
    """Averaged token vectors, distilled from the input embeddings of large models; 256 dimensions."""

    def __init__(self) -> None:
        import wordllama

        # Without these arguments, load() would download weights that the package already contains.
        self._model: Any = wordllama.WordLlama.load(
            cache_dir=Path(wordllama.__file__).parent, disable_download=True
        )
        self.dimensions = 256

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        import numpy as np

        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        with np.errstate(invalid="ignore"):  # 0/0 for a text without known tokens
            vectors = self._model.embed(list(texts), norm=True)
        return np.nan_to_num(np.asarray(vectors, np.float32))


class EncoderEmbedder:
    """A transformers encoder; embeddings are the mean of its last hidden states."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        self._length = min(512, int(self._model.config.max_position_embeddings))
        self.dimensions = int(self._model.config.hidden_size)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        import numpy as np
        import torch

        rows = [np.zeros((0, self.dimensions), np.float32)]
        for i in range(0, len(texts), BATCH):
            batch = self._tokenizer(
                list(texts[i : i + BATCH]),
                padding=True,
                truncation=True,
                max_length=self._length,
                return_tensors="pt",
            )
            with torch.inference_mode():
                hidden_BLD = self._model(**batch).last_hidden_state.float()
            mask_BL1 = batch["attention_mask"][..., None].float()
            mean_BD = (hidden_BLD * mask_BL1).sum(1) / mask_BL1.sum(1).clamp(min=1)
            rows.append(torch.nn.functional.normalize(mean_BD, dim=-1).numpy())
        return np.concatenate(rows)
