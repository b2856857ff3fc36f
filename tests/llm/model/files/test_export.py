"""transformers and llama.cpp reproduce the training engine's logits from an exported model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from headwater.cli import app
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.tokens.tokenizer import load_tokenizer, save_tokenizer, train, wrap
from headwater.llm.model.build import initialise, reward_model
from headwater.llm.model.files.export import export
from headwater.llm.model.files.from_gguf import read_gguf
from headwater.llm.model.shape import ModelConfig, hf_config
from headwater.llm.training import zero
from headwater.llm.training.loop import train_step
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import foreign_model, save_model
from tests.llm.ranks import on_ranks
from tests.llm.training.parallel.test_sharding import make

TEXTS = [
    "Don't  stop: 12345 naïve café\n\n  \t x 😀 中文 Привет, мир! ½ Ⅷ ﬁ",
    "WE'LL it's ſ's   \r\n\r\n a1b2\x00\x7f\u200b\ufeff e\u0301 é\n",
    "def f(x):\n    return x**2  # <|im_end|> <|endoftext|>\n\n\n",
    " ",
    "",
]
PROMPT = torch.from_numpy(np.random.default_rng(0).integers(5, 390, (1, 40)))


def train_and_save(folder: Path) -> None:
    """On two ranks under ZeRO-3: some steps, then the engine's logits and the model as a stage has it."""
    job, worker = make("adamw", 3)
    for step in range(3):
        train_step(job, worker, step)
    worker.engine.module.eval()
    with torch.no_grad():
        logits = worker.engine(input_ids=PROMPT, use_cache=False).logits
    with zero.gathered(worker.engine) as module:
        if dist.get_rank() == 0:
            save_model(folder, module)
            np.save(folder / "logits.npy", logits.numpy())
    dist.barrier()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An artifact with a trained model, and `logits.npy` of its engine for PROMPT."""
    folder = tmp_path_factory.mktemp("trained")
    on_ranks(2, train_and_save, folder)
    return Artifact(str(folder), "pretrain", "0123456789abcdef")


@pytest.fixture(scope="module")
def expected(trained: Artifact) -> np.ndarray:
    return np.load(trained.local("logits.npy"))


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model with an output matrix of its own, three heads over one, and another rotary base."""
    folder = tmp_path_factory.mktemp("untied")
    tokenizer = chat_tokenizer()
    shape = ModelConfig(depth=3, width=192, kv_groups=3, context=128, rope_theta=50_000, tie_embeddings=False)
    save_model(folder, initialise(hf_config(shape, len(tokenizer), tokenizer), seed=1))
    return Artifact(str(folder), "sft", "fedcba9876543210")


def logits_of(folder: Path) -> np.ndarray:
    opened = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return opened(input_ids=PROMPT).logits.numpy()


def gguf(model: Artifact, folder: Path, precision: str | None = "f32") -> Path:
    return Path(export(model, str(folder), "gguf", precision))


def read_by_transformers(path: Path) -> Any:
    """The model of a GGUF file. (from_pretrained would ask for accelerate, and forget the head's width.)"""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    config.head_dim = 64
    model = AutoModelForCausalLM.from_config(config).float().eval()
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and missing == (["lm_head.weight"] if config.tie_word_embeddings else [])
    return model


def test_the_exported_folder_has_the_engines_logits(
    trained: Artifact, expected: np.ndarray, tmp_path: Path
) -> None:
    where = Path(export(trained, str(tmp_path / "out"), "hf"))
    np.testing.assert_allclose(logits_of(where), expected, atol=1e-5, rtol=0)
    opened = AutoTokenizer.from_pretrained(where)
    for text in TEXTS:
        assert opened(text)["input_ids"] == chat_tokenizer()(text)["input_ids"]
    assert opened.chat_template == chat_tokenizer().chat_template


def test_the_folder_in_bf16_is_half_as_large_and_near(
    trained: Artifact, expected: np.ndarray, tmp_path: Path
) -> None:
    where = Path(export(trained, str(tmp_path / "out"), "hf", "bf16"))
    sizes = [
        sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        for folder in (where, trained.local("model"))
    ]
    assert sizes[0] < 0.55 * sizes[1]
    assert 0 < np.abs(logits_of(where) - expected).max() < 0.05


@pytest.mark.parametrize("which", ["trained", "untied"])
def test_transformers_reads_the_same_model_from_the_gguf_file(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    artifact: Artifact = request.getfixturevalue(which)
    path = gguf(artifact, tmp_path)
    with torch.no_grad():
        logits = read_by_transformers(path)(input_ids=PROMPT).logits.numpy()
    np.testing.assert_allclose(logits, logits_of(artifact.local("model")), atol=1e-5, rtol=0)
    if which == "trained":
        np.testing.assert_allclose(logits, np.load(artifact.local("logits.npy")), atol=1e-5, rtol=0)
    opened = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in TEXTS:
        assert opened(text)["input_ids"] == chat_tokenizer()(text)["input_ids"]


class LlamaCpp:
    """llama.cpp on a GGUF file, everything in fp32."""

    def __init__(self, path: Path) -> None:
        library = pytest.importorskip("cyllama.llama.llama_cpp", reason="llama.cpp is not installed")

        class Model(library.LlamaModel):  # its get_logits_ith asks the model for what its vocabulary has
            n_vocab = property(lambda self: self.get_vocab().n_vocab)

        library.disable_logging()
        settings = library.LlamaModelParams()
        settings.n_gpu_layers = 0
        self.library, self.model = library, Model(str(path), settings, False)
        self.vocabulary = self.model.get_vocab()

    def logits(self, ids: list[int]) -> np.ndarray:
        settings = self.library.LlamaContextParams()
        settings.n_ctx, settings.n_batch, settings.n_threads, settings.n_threads_batch = 128, 128, 1, 1
        settings.flash_attn_type = settings.type_k = settings.type_v = 0  # off, and fp32 in the cache
        context = self.library.LlamaContext(self.model, settings, False)
        batch = self.library.LlamaBatch(n_tokens=len(ids), embd=0, n_seq_max=1)
        batch.set_batch(ids, n_past=0, logits_all=True)
        assert context.decode(batch) == 0
        return np.array([context.get_logits_ith(place) for place in range(len(ids))])


@pytest.mark.parametrize("which", ["trained", "untied"])
def test_llama_cpp_gives_the_logits_of_the_engine(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    artifact: Artifact = request.getfixturevalue(which)
    engine = LlamaCpp(gguf(artifact, tmp_path))
    own = logits_of(artifact.local("model"))[0]
    np.testing.assert_allclose(engine.logits(PROMPT[0].tolist()), own, atol=1e-5, rtol=0)


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model of another architecture: SmolLM2's with its tokenizer's rule, or one with biases."""
    return foreign_model(tmp_path_factory.mktemp(request.param), request.param)


def test_other_architectures_give_their_logits_and_ids_in_llama_cpp(
    foreign: Artifact, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(foreign.local("model"))
    engine = LlamaCpp(gguf(foreign, tmp_path))
    own = logits_of(foreign.local("model"))[0]
    assert np.abs(own).max() > 1
    np.testing.assert_allclose(engine.logits(PROMPT[0].tolist()), own, atol=2e-5, rtol=0)
    for text in filter(None, [*TEXTS, "in 2017,  3 to  45 and 6\n 7"]):
        assert engine.vocabulary.tokenize(text, False, True) == tokenizer(text)["input_ids"]


def test_a_gguf_file_of_another_architecture_is_read_back_as_it_was(
    foreign: Artifact, tmp_path: Path
) -> None:
    read_gguf(gguf(foreign, tmp_path), tmp_path)
    np.testing.assert_allclose(logits_of(tmp_path), logits_of(foreign.local("model")), atol=1e-5, rtol=0)
    before, after = load_tokenizer(foreign.local("model")), load_tokenizer(tmp_path)
    for text in [*TEXTS, "in 2017,  3 to  45 and 6\n 7"]:
        assert after(text)["input_ids"] == before(text)["input_ids"]
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
    rendered = [tokenizer.apply_chat_template(said, tokenize=False) for tokenizer in (after, before)]
    assert rendered[0] == rendered[1] and after.eos_token == before.eos_token


@pytest.mark.parametrize(("precision", "deviation"), [("f16", 0.01), ("bf16", 0.1), ("q8_0", 0.2)])
def test_llama_cpp_opens_the_smaller_precisions_and_loses_little(
    trained: Artifact, expected: np.ndarray, tmp_path: Path, precision: str, deviation: float
) -> None:
    logits = LlamaCpp(gguf(trained, tmp_path, precision)).logits(PROMPT[0].tolist())
    assert np.abs(expected).max() > 1
    assert 0 < np.abs(logits - expected[0]).max() < deviation


def test_llama_cpp_has_our_token_ids_ends_and_template(trained: Artifact, tmp_path: Path) -> None:
    engine, ours = LlamaCpp(gguf(trained, tmp_path)), chat_tokenizer()
    vocabulary = engine.vocabulary
    assert vocabulary.token_eos() == ours.eos_token_id and not vocabulary.get_add_bos()
    assert vocabulary.is_eog(ours.convert_tokens_to_ids("<|endoftext|>"))
    for text in filter(None, TEXTS):
        assert vocabulary.tokenize(text, False, True) == ours(text)["input_ids"]
        as_text = ours(text, split_special_tokens=True)["input_ids"]
        assert vocabulary.tokenize(text, False, False) == as_text
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
    messages = [engine.library.LlamaChatMessage(**message) for message in said]
    template = engine.model.get_default_chat_template()
    shown = engine.model.chat_apply_template(template, messages, False)
    assert shown == ours.apply_chat_template(said, tokenize=False)


def test_a_larger_vocabulary_tokenizes_identically_in_llama_cpp(tmp_path: Path) -> None:
    """Every merge and piece of a tokenizer that was trained on this project's own files."""
    root = Path(__file__).resolve().parents[4]
    texts = [path.read_text() for path in sorted(root.glob("llm/*.py")) + sorted(root.glob("docs/*.md"))]
    tokenizer = wrap(train(texts, 2_000, 2))
    folder = tmp_path / "source" / "model"
    initialise(hf_config(ModelConfig(depth=1), len(tokenizer), tokenizer), 0).save_pretrained(folder)  # type: ignore[operator]
    save_tokenizer(tokenizer, folder)
    engine = LlamaCpp(gguf(Artifact(str(folder.parent), "rl", "1"), tmp_path))
    for text in [*texts, *filter(None, TEXTS)]:
        expected = tokenizer(text, split_special_tokens=True)["input_ids"]
        assert engine.vocabulary.tokenize(text, False, False) == expected


def test_without_a_precision_the_file_has_that_of_the_weights(trained: Artifact, tmp_path: Path) -> None:
    half = tmp_path / "half"
    export(trained, str(half / "model"), "hf", "bf16")
    assert gguf(trained, tmp_path / "a", None).name == "headwater-pretrain-01234567-f32.gguf"
    made = gguf(Artifact(str(half), "rl", "1"), tmp_path / "b", None)
    assert made.name == "headwater-rl-1-bf16.gguf"


def test_what_cannot_be_exported_is_refused_and_nothing_is_overwritten(
    trained: Artifact, tmp_path: Path
) -> None:
    model = save_model(tmp_path / "scores", reward_model(Folder(trained, "model"), new_head_seed=0))
    with pytest.raises(HeadwaterError, match=r"Qwen3ForSequenceClassification.*--format hf"):
        export(model.artifact, str(tmp_path / "out"), "gguf")
    assert Path(export(model.artifact, str(tmp_path / "scored"), "hf", "f16")).is_dir()
    gguf(trained, tmp_path)
    with pytest.raises(HeadwaterError, match="the output already exists"):
        gguf(trained, tmp_path)
    with pytest.raises(HeadwaterError, match="the output already exists"):
        export(trained, str(tmp_path), "hf")
    with pytest.raises(HeadwaterError, match="there is no trained model in this artifact"):
        export(Artifact(str(tmp_path)), str(tmp_path / "x"), "gguf")
    with pytest.raises(HeadwaterError, match="only GGUF files can have the precision q8_0"):
        export(trained, str(tmp_path / "y"), "hf", "q8_0")
    with pytest.raises(HeadwaterError, match="unknown precision q4"):
        export(trained, str(tmp_path / "y"), "gguf", "q4")


def test_a_tokenizer_of_another_rule_is_refused_by_name(trained: Artifact, tmp_path: Path) -> None:
    export(trained, str(tmp_path / "other" / "model"), "hf")
    path = tmp_path / "other" / "model" / "tokenizer.json"
    changed = json.loads(path.read_text()) | {"normalizer": {"type": "NFC"}}
    path.write_text(json.dumps(changed))
    with pytest.raises(HeadwaterError, match="it has a normaliser"):
        gguf(Artifact(str(tmp_path / "other")), tmp_path)


def test_the_export_command_refuses_a_source_that_is_no_artifact(tmp_path: Path) -> None:
    for source, words in (("rl", "neither a recipe file nor STAGE/KEY"), ("rl/1", "no finished artifact")):
        with pytest.raises(HeadwaterError, match=words):
            app(
                ["export", source, "--store", str(tmp_path), "-o", str(tmp_path / "x")],
                standalone_mode=False,
            )
