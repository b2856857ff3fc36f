"""The OpenVINO backend gives torch's logits, and all that is built on logits is the same for both."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from headwater.cluster.errors import HeadwaterError
from headwater.llm.inference import Sampling, backends, load_engine
from headwater.llm.inference.backends import choose
from headwater.llm.inference.base import Engine, Limits
from headwater.llm.inference.openvino.decoder import PagedDecoder
from headwater.llm.inference.openvino.graph import BLOCK, fault, quantize
from headwater.llm.inference.parity import check, record
from headwater.llm.inference.shared import SharedEngine
from tests.llm.models import foreign_model, save_model

pytest.importorskip("openvino", reason="the extra `openvino` is not installed (x86-64 Linux only)")

PROMPTS = [[5, 9, 12, 30], [7] * (BLOCK + 3), [8, 20], [5, 9, 12, 31, 40, 41], list(range(4, 4 + 2 * BLOCK))]
SCHEMA = '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save_model(tmp_path_factory.mktemp("qwen3")).local())


@pytest.fixture(scope="module")
def torch_engine(folder: Path) -> Engine:
    return load_engine(folder, threads=1)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return load_engine(folder, threads=1, backend="openvino")


def config_of(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "config.json").read_text()))


def apart(one: Engine, other: Engine) -> float:
    """The largest difference of log-probabilities over the prompts."""
    starts, rests = [prompt[:1] for prompt in PROMPTS], [prompt[1:] for prompt in PROMPTS]
    pairs = zip(one.score(starts, rests), other.score(starts, rests), strict=True)
    return max(abs(a - b) for left, right in pairs for a, b in zip(left, right, strict=True))


def test_log_probabilities_are_torchs(engine: Engine, torch_engine: Engine) -> None:
    assert apart(engine, torch_engine) < 1e-4
    shared = [PROMPTS[1]] * 3 + [PROMPTS[0]]
    rests = [[9, 9], [4], [], [30, 31, 32]]
    for temperature in (1.0, 0.7):
        found = engine.score(shared, rests, temperature=temperature)
        for row, wanted in zip(
            found, torch_engine.score(shared, rests, temperature=temperature), strict=True
        ):
            assert row == pytest.approx(wanted, abs=1e-4)
    assert [token.id for token in engine.read(PROMPTS[0], 3)] == PROMPTS[0][1:]
    for one, other in zip(engine.read(PROMPTS[4], 3), torch_engine.read(PROMPTS[4], 3), strict=True):
        assert [id for id, _ in one.top] == [id for id, _ in other.top]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_other_architectures_give_their_logits(kind: str, tmp_path: Path) -> None:
    model = Path(foreign_model(tmp_path, kind).path("model"))
    assert apart(load_engine(model, backend="openvino"), load_engine(model)) < 1e-4


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(24, temperature=0),
        Sampling(24, seed=3),
        Sampling(24, seed=3, top_p=0.8, repetition_penalty=1.2, top_logprobs=2),
        Sampling(32, seed=3, schema=SCHEMA),
    ],
    ids=["greedy", "sampled", "cut", "schema"],
)
def test_the_same_settings_and_seeds_give_the_same_tokens(
    engine: Engine, torch_engine: Engine, sampling: Sampling
) -> None:
    found = engine.generate(PROMPTS, sampling)
    wanted = torch_engine.generate(PROMPTS, sampling)
    assert [one.ids for one in found] == [one.ids for one in wanted]
    assert [one.finish_reason for one in found] == [one.finish_reason for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_sequence_is_as_if_alone_among_those_that_come_and_go(engine: Engine) -> None:
    sampling = Sampling(40, seed=5, ignore_eos=True)
    alone = engine.generate([PROMPTS[1]], sampling)[0].ids
    batch = engine.batch(Limits(sequences=4, read_tokens=40))
    told: dict[int, list[int]] = {}
    first = batch.submit(PROMPTS[0], Sampling(60, seed=1, ignore_eos=True))
    watched = batch.submit(PROMPTS[1], sampling)
    for number in range(8):
        batch.submit(PROMPTS[number % 5], Sampling(3 + 5 * number, seed=number, ignore_eos=True))
    for turn in range(200):
        for event in batch.step():
            told.setdefault(event.handle, []).append(event.id)
        if turn == 20:
            batch.cancel(first)
        if batch.idle:
            break
    assert batch.idle
    assert told[watched] == alone
    assert len(told[first]) < 60


def test_a_kept_prefix_gives_the_same_tokens(engine: Engine) -> None:
    prompt, sampling = list(range(4, 4 + BLOCK + 9)), Sampling(12, temperature=0)
    (plain,) = engine.generate([[*prompt, 50]], sampling)
    shared = SharedEngine(engine)
    list(shared.stream([*prompt, 60], sampling))
    assert [token.id for token in shared.stream([*prompt, 50], sampling)] == plain.ids
    found, asked = shared.prefix_tokens
    assert found >= len(prompt)
    assert asked == 2 * (len(prompt) + 1)


def test_an_answer_goes_on_behind_what_was_said(engine: Engine) -> None:
    sampling = Sampling(20, seed=9, ignore_eos=True)
    (whole,) = engine.generate([PROMPTS[3]], sampling)
    rest = [token.id for token in engine.stream(PROMPTS[3], sampling, said=whole.ids[:7])]
    assert rest == whole.ids[7:]


def test_blocks_are_given_back(engine: Engine) -> None:
    decoder = engine._open()  # type: ignore[attr-defined]
    assert isinstance(decoder, PagedDecoder)
    decoder.reserve(3, 2 * BLOCK, 0)
    decoder.read([0, 1], [0, 0], [PROMPTS[1], PROMPTS[0]])
    before = [tensor.clone() for tensor in decoder.kept(0, len(PROMPTS[1]))]
    decoder.copy(0, 2, len(PROMPTS[1]))
    decoder.move(2, 1)
    decoder.swap(0, 1)
    decoder.reserve(4, 3 * BLOCK, 2)
    for row in (0, 1):
        kept = decoder.kept(row, len(PROMPTS[1]))
        assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))
    for row in range(4):
        decoder.clear(row)
    assert sorted(decoder._free) == list(range(12))


def test_a_failing_kernel_is_an_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = engine._open()  # type: ignore[attr-defined]
    decoder.reserve(2, BLOCK, 0)
    given: Callable[..., None] = decoder._set

    def broken(name: str, values: object, **options: object) -> None:
        if name == "past_lens":
            values = values[:1]  # type: ignore[index]
        given(name, values, **options)

    monkeypatch.setattr(decoder, "_set", broken)
    with pytest.raises(RuntimeError):
        decoder.read([0, 1], [0, 0], [[5, 6], [7, 8]])


def test_int8_rounds_each_row_to_255_steps() -> None:
    values = torch.tensor([[1.0, -0.5, 0.004], [0.0, 0.0, 0.0]]).numpy()
    rounded, scale = quantize(values)
    assert rounded.tolist() == [[127, -64, 1], [0, 0, 0]]
    assert abs(rounded * scale - values).max() <= scale.max() / 2


def test_int8_stays_within_its_bound_and_other_weights_do_not(
    folder: Path, torch_engine: Engine, tmp_path: Path
) -> None:
    record(folder, torch_engine)
    try:
        for how in ("none", "int8"):
            opened = load_engine(folder, backend="openvino", quantize=how)  # type: ignore[arg-type]
            assert opened.precision == {"none": "float32", "int8": "int8"}[how]
            check(folder, opened)
        other = Path(save_model(tmp_path, changed()).local())
        (other / "parity.json").write_bytes((folder / "parity.json").read_bytes())
        for how in ("none", "int8"):
            with pytest.raises(HeadwaterError, match="log-probabilities differ"):
                check(other, load_engine(other, backend="openvino", quantize=how))  # type: ignore[arg-type]
    finally:
        (folder / "parity.json").unlink()


def changed() -> torch.nn.Module:
    from tests.llm.models import small_model

    model = copy.deepcopy(small_model())
    with torch.no_grad():
        for layer in model.model.layers:  # type: ignore[union-attr,operator]
            layer.mlp.down_proj.weight.mul_(-1)  # type: ignore[union-attr,operator]
    return model


def test_auto_takes_what_covers_the_model_and_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(folder)
    assert choose("auto", "none", config, "here").backend == "openvino"
    assert choose("auto", "int8", config, "here").quantize == "int8"
    other = choose("auto", "none", {**config, "model_type": "gpt2"}, "here")
    assert (other.backend, "not gpt2" in str(other)) == ("torch", True)
    assert "GPU" in choose("auto", "none", config, "here", gpus=1).why
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    assert choose("auto", "none", config, "here").why == "openvino is not installed"
    with pytest.raises(HeadwaterError, match="not installed"):
        choose("openvino", "none", config, "here")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "gpt2"}, "not gpt2"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "not a causal"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding windows"),
        ({"model_type": "mistral", "sliding_window": 64}, "sliding windows"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "not dynamic"),
        ({"hidden_act": "gelu"}, "not gelu"),
    ],
)
def test_a_model_it_does_not_cover_is_refused(folder: Path, changes: dict[str, object], said: str) -> None:
    config = {**config_of(folder), **changes}
    assert said in fault(config)
    with pytest.raises(HeadwaterError, match="cannot run this model"):
        choose("openvino", "none", config, "here")
    with pytest.raises(HeadwaterError, match="needs the backend openvino"):
        choose("auto", "int8", config, "here")


def test_torch_has_no_int8(folder: Path) -> None:
    with pytest.raises(HeadwaterError, match="needs the backend openvino"):
        choose("torch", "int8", config_of(folder), "here")
