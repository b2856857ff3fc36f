"""Linear text classifier: logistic regression on the mean of hashed word 1- and 2-grams.

fastText's classifier (Joulin et al. 2016, https://arxiv.org/abs/1607.01759) without its hidden layer, which
two classes do not need. A model is a folder with `model.json` (settings, calibration, held-out results,
versions) and `weights.safetensors`. It contains no code, and the weights are verified by their checksum.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from headwater.cluster.errors import HeadwaterError, first_line
from headwater.cluster.storage.filesystem import filesystem, join
from headwater.data_pipeline.text.compiled import compiled
from headwater.data_pipeline.text.words.counting import BASE, mix
from headwater.data_pipeline.text.words.hashed_words import folded, hashed_words

MODEL, WEIGHTS = "model.json", "weights.safetensors"
FORMAT = 1


class ModelCard(BaseModel):
    """Content of `model.json`."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    buckets: int
    """Number of weights, a power of two. An n-gram uses the weight at its hash modulo this number."""
    bias: float
    slope: float
    offset: float
    """P(good) = 1 / (1 + exp(-(slope · logit + offset))), by Platt scaling on the held-out texts."""
    weights_sha256: str
    training: dict[str, Any]
    """Inputs and settings of the training."""
    held_out: dict[str, Any]
    """Results on texts held out from training."""
    versions: dict[str, str]


class LinearModel:
    """Scores texts. Memory: the weights plus about five times the current text."""

    def __init__(self, card: ModelCard, weights: np.ndarray) -> None:
        self.card, self.weights = card, weights

    @classmethod
    def load(cls, location: str) -> LinearModel:
        """Load a model folder from a disk or S3. Raises HeadwaterError if it is incomplete or damaged."""
        content = _read(location, MODEL)
        try:
            card = ModelCard.model_validate(json.loads(content))
        except (ValueError, ValidationError) as error:
            raise HeadwaterError(
                f"not a model description: {_problem(error)}",
                where=join(location, MODEL),
                fix="train it again with `headwater quality train`",
            ) from error
        if card.format != FORMAT:
            raise HeadwaterError(
                f"the model has format {card.format}, but this version reads format {FORMAT}",
                where=join(location, MODEL),
                fix="train it again with `headwater quality train`",
            )
        data = _read(location, WEIGHTS)
        if hashlib.sha256(data).hexdigest() != card.weights_sha256:
            raise HeadwaterError(
                f"damaged, or not the weights described in {MODEL}",
                where=join(location, WEIGHTS),
                fix="copy the whole folder again, or train the model again",
            )
        import safetensors.numpy

        return cls(card, safetensors.numpy.load(data)["weights"])

    def score(self, text: str) -> float:
        """Probability that the text is good, assuming equally frequent classes."""
        return sigmoid(self.card.slope * self.logit(text) + self.card.offset)

    def logit(self, text: str) -> float:
        return float(_logit(word_hashes(text), self.weights, self.card.bias))


def to_bytes(weights: np.ndarray) -> bytes:
    """The content of `weights.safetensors`: float32 [buckets]."""
    import safetensors.numpy

    return safetensors.numpy.save({"weights": weights})


def word_hashes(text: str) -> np.ndarray:
    """uint64 [words]: word hashes. Letters are in lower case, digits are 0, and each mark is a word."""
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
    """uint32 [max(0, 2 · words - 1)]: indices of the weights of a text, whose mean plus bias is its logit."""
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
            fix="pass a folder written by `headwater quality train`",
        ) from error


def _problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return first_line(error)
