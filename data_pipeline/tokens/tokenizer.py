"""The stage `tokenizer`: a byte-level BPE trained on the cleaned corpus, as a Hugging Face folder.

Text is split by Qwen2's rule (`qwen2` in llama.cpp) and encoded as bytes without normalisation, so that
decoding returns exactly the input text. The folder opens with `AutoTokenizer.from_pretrained`, alone or
next to a model's `config.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.needs import Moments
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Input, Stage, StageConfig
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.corpus import read_documents
from headwater.data_pipeline.split import document_fraction
from headwater.data_pipeline.tokens.chat_template import (
    CHAT_TEMPLATE,
    DOCUMENT_END,
    PADDING,
    SPECIAL_TOKENS,
    TURN_END,
    TURN_START,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

FOLDER = "tokenizer"
TOKENIZER = Input(("tokenizer", "base"), what="a tokenizer")
"""Input of stages that encode text: the tokenizer of the base model, or one trained on the corpus."""
DOCUMENT_ENDS = (DOCUMENT_END, "<|end_of_text|>", "<eos>", "</s>")
"""Names of the token that ends a document: GPT-2 and Qwen, Llama 3, Gemma, Llama 2."""
MEASURED_BYTES = 1 << 20

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""`PRETOKENIZE_REGEX` of transformers' tokenization_qwen2.py. Merges never cross these pieces."""


class TokenizerConfig(StageConfig):
    """Settings of the stage `tokenizer`."""

    vocab_size: int = Field(default=4096, ge=256 + len(SPECIAL_TOKENS), le=1 << 20)
    """Maximum number of ids, including special tokens. A small corpus may have too few pairs to reach it."""
    min_frequency: int = Field(default=2, ge=1)
    """Minimum number of occurrences for a pair to be merged."""
    sample_bytes: int = Field(default=256 << 20, ge=1)
    """Bytes of text to train on. From a larger corpus, a sample of documents, selected by hash, is used."""


class TrainTokenizer(Stage[TokenizerConfig]):
    """Cleaned documents → `tokenizer/`."""

    name = "tokenizer"
    inputs = ("clean",)

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return []

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        started = time.monotonic()
        corpus = inputs["clean"]
        total = sum(len(text) for text in _sampled_bytes(corpus, 1.0))
        if total == 0:
            raise HeadwaterError(
                "the cleaned corpus has no text", where=corpus.location, fix="relax the filters of `clean`"
            )
        share = min(1.0, self.config.sample_bytes / total)
        with session.progress("tokenizer", int(total * share), "bytes") as shown:

            def counted() -> Iterator[str]:
                for data in _sampled_bytes(corpus, share):
                    shown.advance(len(data))
                    yield data.decode()

            tokenizer = train(counted(), self.config.vocab_size, self.config.min_frequency)
            trained_on = shown.done
        with output.create_folder(FOLDER) as folder:
            save_tokenizer(wrap(tokenizer), folder)
        return {
            "vocab_size": tokenizer.get_vocab_size(),
            "bytes_per_token": round(_bytes_per_token(tokenizer, _sampled_bytes(corpus, share)), 4),
            "corpus_bytes": total,
            "trained_on_bytes": trained_on,
            "train_seconds": round(time.monotonic() - started, 2),
        }


def train(texts: Iterable[str], vocab_size: int, min_frequency: int) -> Tokenizer:
    """Learn merges. The result depends on the frequency of each piece, not on the order of texts."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes, so that nothing is unknown
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Wrap as a transformers tokenizer with the roles of the special tokens and the chat template."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=PADDING,
        extra_special_tokens=[DOCUMENT_END, TURN_START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write a tokenizer to its own or a model's folder, such that every loader gives the same ids.

    transformers writes the name of its backend as `tokenizer_class`. Without a class, the `config.json` of a
    Qwen3 model in the same folder makes `AutoTokenizer` build a Qwen2Tokenizer, which normalises text (NFC)
    and gives other ids. Every version knows `PreTrainedTokenizerFast`, which changes nothing. (Next to a
    Qwen2 `config.json`, transformers 5 builds its own class whatever is named.)
    """
    tokenizer.save_pretrained(folder)
    path = Path(folder) / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for key in ("name_or_path", "is_local", "local_files_only"):  # local paths mean nothing elsewhere
        settings.pop(key, None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def tokenizer_of(inputs: Mapping[str, Artifact]) -> Folder:
    """The tokenizer among a stage's inputs."""
    name = TOKENIZER.choose(inputs)
    assert name is not None, "a required input"
    return Folder(inputs[name], FOLDER)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Open a tokenizer folder (or a model folder that holds one), Headwater's or another's.

    Its `tokenizer.json` alone decides about ids, whatever class its settings name.
    """
    from transformers import PreTrainedTokenizerFast

    if not (Path(folder) / "tokenizer.json").is_file():
        raise HeadwaterError(
            "no tokenizer.json", where=str(folder), fix="pass the folder of a tokenizer or a model"
        )
    return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)


def load_encoder(folder: str | Path) -> Tokenizer:
    """The bare encoder for documents: text that spells a special token is encoded as text."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    encoder.encode_special_tokens = True
    encoder.no_truncation()  # some models' files say so, for their training
    encoder.no_padding()
    return encoder


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    """All special tokens of the vocabulary, in the order of their ids."""
    added = tokenizer.added_tokens_decoder
    named = set(tokenizer.all_special_ids)
    return {
        number: str(added[number]) for number in sorted(added) if added[number].special or number in named
    }


def document_end_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that ends a document: the first of DOCUMENT_ENDS that is special, else `eos_token`."""
    special = {token: number for number, token in special_ids(tokenizer).items()}
    found = next((special[token] for token in DOCUMENT_ENDS if token in special), tokenizer.eos_token_id)
    if not isinstance(found, int):
        raise HeadwaterError(
            "the tokenizer has no token that ends a document",
            where=str(tokenizer.name_or_path),
            fix=f"add a special token, such as {DOCUMENT_END}, and name it as `eos_token`",
        )
    return found


def padding_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that fills up rows, which must not end anything: padding is not scored, ends are.

    `pad_token`, unless it ends documents or turns too (Qwen's and SmolLM2's do); else `<|pad|>`; else the
    last special token that ends nothing (most vocabularies reserve some); else the end of a document. Encoded
    text has no special tokens, so any of them can be told from it.
    """
    end = document_end_id(tokenizer)
    ends = {end, tokenizer.eos_token_id}
    special = special_ids(tokenizer)
    own = tokenizer.pad_token_id
    if isinstance(own, int) and own not in ends:
        return own
    ours = [number for number, token in special.items() if token == PADDING]
    free = [number for number in special if number not in ends | {tokenizer.bos_token_id}]
    return next(iter([*ours, *free[::-1]]), end)


def _sampled_bytes(corpus: Artifact, share: float) -> Iterator[bytes]:
    """UTF-8 texts of the documents with the highest `share` of hash values."""
    for batch in read_documents(corpus, ["id", "text"]):
        for identifier, text in zip(
            *(batch.column(name).to_pylist() for name in ("id", "text")), strict=True
        ):
            if text and document_fraction(identifier) >= 1.0 - share:
                yield text.encode()


def _bytes_per_token(tokenizer: Tokenizer, texts: Iterable[bytes]) -> float:
    """UTF-8 bytes per id, over the first megabyte."""
    measured = tokens = 0
    for text in texts:
        measured += len(text)
        tokens += len(tokenizer.encode(text.decode()).ids)
        if measured >= MEASURED_BYTES:
            break
    return measured / max(1, tokens)
