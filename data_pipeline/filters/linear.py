"""A linear classifier of texts: logistic regression on the mean of hashed word 1- and 2-grams.

fastText's classifier (Joulin et al. 2016, https://arxiv.org/abs/1607.01759) without its hidden layer, which
two classes do not need. A model is a folder: `model.json` (settings, calibration, how it did on held-out
texts, versions) and `weights.safetensors`. Nothing in it is code, and a weight file that is not the one
that was written is refused by its checksum.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.filesystem import filesystem, join
from headwater.data_pipeline.text.compiled import compiled
from headwater.data_pipeline.text.counting import BASE, mix
from headwater.data_pipeline.text.hashed_words import folded, hashed_words

MODEL, WEIGHTS = "model.json", "weights.safetensors"
FORMAT = 1


class ModelCard(BaseModel):
    """What `model.json` holds."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    buckets: int
    """Weights, a power of two: an n-gram's is the one at its hash modulo this."""
    bias: float
    slope: float
    offset: float
    """P(good) = 1 / (1 + exp(-(slope · logit + offset))): Platt's calibration on the held-out texts."""
    weights_sha256: str
    training: dict[str, Any]
    """Inputs and settings."""
    held_out: dict[str, Any]
    """How it did on texts that it was not trained on."""
    versions: dict[str, str]


class LinearModel:
    """Scores texts. Memory: the weights, and some five times the text at hand."""

    def __init__(self, card: ModelCard, weights: np.ndarray) -> None:
        self.card, self.weights = card, weights

    @classmethod
    def load(cls, location: str) -> LinearModel:
        """From a folder on a disk or S3. Raises HeadwaterError where it is no whole model."""
        content = _read(location, MODEL)
        try:
            card = ModelCard.model_validate(json.loads(content))
        except (ValueError, ValidationError) as error:
            raise HeadwaterError(
                f"not a model's description: {_first_line(error)}",
                where=join(location, MODEL),
                fix="train it again with `headwater quality train`",
            ) from error
        if card.format != FORMAT:
            raise HeadwaterError(
                f"a model of format {card.format}; {FORMAT} is read here",
                where=join(location, MODEL),
                fix="train it again with `headwater quality train`",
            )
        data = _read(location, WEIGHTS)
        if hashlib.sha256(data).hexdigest() != card.weights_sha256:
            raise HeadwaterError(
                f"damaged, or not the weights that {MODEL} describes",
                where=join(location, WEIGHTS),
                fix="copy the whole folder again, or train anew",
            )
        import safetensors.numpy

        return cls(card, safetensors.numpy.load(data)["weights"])

    def score(self, text: str) -> float:
        """Probability that the text is of the good kind, were both kinds equally frequent."""
        return sigmoid(self.card.slope * self.logit(text) + self.card.offset)

    def logit(self, text: str) -> float:
        return float(_logit(word_hashes(text), self.weights, self.card.bias))


def to_bytes(weights: np.ndarray) -> bytes:
    """The content of `weights.safetensors`: float32 [buckets]."""
    import safetensors.numpy

    return safetensors.numpy.save({"weights": weights})


def word_hashes(text: str) -> np.ndarray:
    """uint64 [words]: letters in lower case, every digit as 0, marks by themselves."""
    return hashed_words(text, folded(digits=False)).hashes


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, value))))


@compiled
def _logit(words: np.ndarray, weights: np.ndarray, bias: float) -> float:
    mask = np.uint64(len(weights) - 1)
    total = 0.0
    for place in range(len(words)):
        total += weights[words[place] & mask]
        if place:
            total += weights[mix(words[place - 1] * BASE + words[place]) & mask]
    return bias + total / max(1, 2 * len(words) - 1)


@compiled
def features(words: np.ndarray, buckets: int) -> np.ndarray:
    """uint32 [max(0, 2 · words - 1)]: the weights that a text's logit is the mean of, and the bias."""
    mask = np.uint64(buckets - 1)
    found = np.empty(max(0, 2 * len(words) - 1), np.uint32)
    count = 0
    for place in range(len(words)):
        found[count] = words[place] & mask
        count += 1
        if place:
            found[count] = mix(words[place - 1] * BASE + words[place]) & mask
            count += 1
    return found


def _read(location: str, name: str) -> bytes:
    fs, path = filesystem(join(location, name))
    try:
        with fs.open_input_file(path) as stream:
            return bytes(stream.read())
    except FileNotFoundError as error:
        raise HeadwaterError(
            "no such file",
            where=join(location, name),
            fix="name a folder that `headwater quality train` made",
        ) from error


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]
