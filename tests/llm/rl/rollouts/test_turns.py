"""Episodes of several turns: sampled ids stay as they are, and nothing else is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.plugins import read_plugin
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.store import Store
from headwater.llm.examples.chat import encode_answer, encode_conversation, encode_prompt, encode_reply
from headwater.llm.examples.conversations import Conversation
from headwater.llm.examples.tasks import Task
from headwater.llm.grounding.passages import Passage
from headwater.llm.grounding.prompt import NOTHING_FOUND
from headwater.llm.grounding.tasks import GroundedTask
from headwater.llm.inference import Completion, Sampling
from headwater.llm.rl.config import RlConfig
from headwater.llm.rl.losses import Policy
from headwater.llm.rl.rewards.judge import Judge, Weighted
from headwater.llm.rl.rollouts.search import Search, demonstration, open_search, query_of, search_task
from headwater.llm.rl.rollouts.turns import Player, Turns
from headwater.llm.rl.rollouts.worker import RolloutWorker, WeightBoard, learner_arrays
from headwater.llm.stages.rl import Rl
from headwater.serving.retrieval.index import Index, IndexConfig
from headwater.serving.retrieval.search import PassageIndex
from tests.llm.actors import Handle
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.examples.template_tokenizers import FAMILIES, family
from tests.llm.models import save_model, small_engine, small_model
from tests.serving.conftest import clean_artifact
from tests.serving.test_grounded import news

BRIDGE = "The council of Leeds voted to rebuild the old bridge for 10 million pounds."
FOUND = [
    Passage("a", "", "Bridge", BRIDGE, 0, len(BRIDGE)),
    Passage("b", "", "Chess", "It was a draw.", 0, 14),
]
TASK = GroundedTask("What will Leeds rebuild?", tuple(FOUND), f"{BRIDGE.removesuffix('.')} [1].", "a")
LIMITS = Turns(lambda: Search(lambda query: FOUND), limit=3, tokens=2000)
HEAT = Sampling(max_tokens=40)


class Scripted:
    """An engine that says what it was told to, message by message, and counts down its log-probabilities."""

    def __init__(self, *messages: str, end: bool = True) -> None:
        self.tokenizer, self.context = chat_tokenizer(), 4096
        self.messages, self.end = list(messages), end
        self.read: list[list[int]] = []

    def generate(
        self, prompts: list[list[int]], sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> list[Completion]:
        self.read += prompts
        ids = encode_answer(self.tokenizer, self.messages.pop(0))
        ids = ids if self.end else ids[:-1]
        return [Completion(ids, [-0.5] * len(ids), "stop" if self.end else "length") for _ in prompts]


def played(engine: Any, turns: Turns = LIMITS, task: Task | None = None) -> Any:
    task = task or search_task(TASK)
    prompts = [encode_prompt(engine.tokenizer, task.prompt)]
    return Player(engine, turns).play([task], prompts, HEAT, [0])


def test_a_search_is_answered_with_numbered_passages_and_any_other_message_is_the_answer() -> None:
    engine = Scripted("search: Leeds bridge", "Search: chess", "Leeds will rebuild the old bridge [1].")
    found = played(engine)
    (completion,), (last,), (task,) = found.completions, found.last, found.tasks
    assert last.finish_reason == "stop" and not engine.messages
    text = engine.tokenizer.decode(completion.ids)
    assert (
        text.index("[1] Bridge")
        < text.index("[2] Chess")
        < text.index("[3] Bridge")
        < text.index("[4] Chess")
    )
    assert task.context.startswith(f"[1] Bridge\n{BRIDGE}\n\n[2] Chess") and task.reference == TASK.answer
    judged = found.judged(Judge([Weighted("citations")], 5), ["Leeds will rebuild the old bridge [1]."])
    assert judged.verified[0] > 0.9
    assert played(Scripted("search: it", "I say so [1]."), task=task).tasks[0].context.count("[1]") == 1


def test_the_ids_are_those_of_the_whole_conversation_and_each_turn_reads_all_before_it() -> None:
    engine = Scripted("search: Leeds bridge", "Leeds will rebuild it [1].")
    (completion,) = played(engine).completions
    talk = [
        *search_task(TASK).prompt,
        {"role": "assistant", "content": "search: Leeds bridge"},
        {"role": "tool", "content": f"[1] Bridge\n{BRIDGE}\n\n[2] Chess\nIt was a draw."},
    ]
    prompt = encode_prompt(engine.tokenizer, talk[:1])
    assert engine.read == [prompt, encode_prompt(engine.tokenizer, talk)]
    answer = encode_answer(engine.tokenizer, "Leeds will rebuild it [1].")
    assert prompt + completion.ids == engine.read[1] + answer
    ids, mask = encode_conversation(
        engine.tokenizer, [*talk, {"role": "assistant", "content": "Leeds will rebuild it [1]."}]
    )
    assert np.isfinite(completion.logprobs).tolist() == [bool(m) for m in mask[len(prompt) : len(mask) - 1]]
    assert ids[:-1] == prompt + completion.ids, "but for the line break after the last turn"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_reply_is_written_as_the_models_own_template_writes_it(name: str) -> None:
    tokenizer = family(name)
    talk: Conversation = [
        {"role": "user", "content": "What did the council decide?"},
        {"role": "assistant", "content": "search: council"},
    ]
    given = encode_prompt(tokenizer, talk[:1]) + encode_answer(tokenizer, talk[1]["content"])
    reply = encode_reply(tokenizer, ["user", "assistant"], "tool", "[1] The bridge.")
    role = "user" if name == "gemma" else "tool"  # its template takes turns of user and model alone
    expected = encode_prompt(tokenizer, [*talk, {"role": role, "content": "[1] The bridge."}])
    assert expected[-len(reply) :] == reply
    assert given + reply == expected or name == "qwen3", "which opens only its last turn with a thought"


def test_limits_of_turns_and_tokens_end_an_episode_without_an_answer() -> None:
    engine = Scripted(*["search: Leeds"] * 3)
    found = played(engine)
    assert found.last[0].finish_reason == "length" and len(engine.read) == 3
    assert found.judged(Judge([Weighted("citations")], 5), ["search: Leeds"]).verified[0] == 0
    whole = len(found.completions[0].ids)
    assert len(found.tasks[0].context.split("[")) == 5, "two searches were answered"
    engine = Scripted(*["search: Leeds"] * 3)
    assert len(played(engine, replace(LIMITS, tokens=whole)).completions[0].ids) < whole
    engine = Scripted("search: Leeds", end=False)
    assert played(engine).last[0].finish_reason == "length" and len(engine.read) == 1


def test_an_answer_whose_environment_raises_is_not_judged() -> None:
    def broken(query: str) -> list[Passage]:
        raise OSError("the index is gone")

    found = played(Scripted("search: Leeds"), replace(LIMITS, open=lambda: Search(broken)))
    judged = found.judged(Judge([Weighted("citations")], 5), ["search: Leeds"])
    assert np.isnan(judged.verified[0]) and judged.failures == ["task: OSError: the index is gone"]


def test_an_episode_that_leaves_no_room_for_its_prompt_is_refused() -> None:
    with pytest.raises(
        HeadwaterError, match=r"rl.max_episode_tokens: an episode of 4096 tokens leaves no room"
    ):
        played(Scripted(), replace(LIMITS, tokens=4096))
    with pytest.raises(ValidationError, match="has no room for a search and an answer"):
        RlConfig(task="search", max_new_tokens=300)


def test_what_a_message_looks_for() -> None:
    assert query_of(" search: the old bridge\nand more") == "the old bridge"
    assert query_of("Search:bridge") == "bridge"
    assert query_of("search:") is query_of("I would search: bridge") is query_of("") is None


def test_a_demonstration_teaches_the_search_and_the_answer_alone() -> None:
    tokenizer = chat_tokenizer()
    ids, mask = encode_conversation(tokenizer, demonstration(TASK))
    learnt = tokenizer.decode([token for token, one in zip(ids, mask, strict=True) if one])
    assert learnt == f"search: {TASK.question}<|im_end|>{TASK.answer}<|im_end|>"
    assert search_task(replace(TASK, answer=NOTHING_FOUND)).reference == NOTHING_FOUND


# -- with a real engine -----------------------------------------------------------------------------
GAME = '''
class Echo:
    """The model may speak twice; whatever it says is repeated."""

    def __call__(self):
        for number in range(20):
            yield f"Say {number}.", str(number)

    def reply(self, messages, task):
        said = [each for each in messages if each["role"] == "assistant"]
        return f"You were asked for {task.reference}." if len(said) < 2 else None
'''


@pytest.fixture
def worker(tmp_path: Path) -> RolloutWorker:
    (tmp_path / "game.py").write_text(GAME)
    context: Any = SimpleNamespace(enter=lambda: None)
    made = RolloutWorker(
        save_model(tmp_path / "policy", ending(small_model(1))),
        save_model(tmp_path / "reference"),
        None,
        [Weighted("exact")],
        Handle(WeightBoard()),
        Sampling(12, 1.0),
        torch.get_num_threads(),
        context,
        turns=Turns(read_plugin(f"{tmp_path / 'game.py'}:Echo", "rl.task").load, 3, 120),
    )
    return made


def ending(model: torch.nn.Module) -> torch.nn.Module:
    """A copy whose weights of the end of a turn are large: it ends its turns early."""
    import copy

    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.get_output_embeddings().weight[chat_tokenizer().eos_token_id] *= 8  # type: ignore[operator]
    return changed


def episodes(worker: RolloutWorker) -> Any:
    tasks = [Task(f"d{n}", [{"role": "user", "content": f"Say {n}."}], str(n)) for n in range(4)]
    made = worker.rollout(tasks, group=4, seed=3)
    assert any(np.isnan(each.logprobs).any() for each in made.completions), "some have a reply"
    return made


def test_sampled_ids_have_the_policys_log_probabilities_in_their_place_after_the_reply(
    worker: RolloutWorker,
) -> None:
    made = episodes(worker)
    model = worker.engine.model
    for prompt, completion, given in zip(
        made.prompts, made.completions, made.reference_logprobs, strict=True
    ):
        ids = torch.tensor([prompt + completion.ids])
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
        own = np.isfinite(completion.logprobs)
        expected = logprobs[-len(own) :].numpy()
        np.testing.assert_allclose(np.array(completion.logprobs)[own], expected[own], rtol=1e-3, atol=1e-3)
        assert len(given) == len(own) and np.isfinite(given).all()
    asked = worker.engine.tokenizer.decode(made.completions[0].ids)
    assert "You were asked for" in asked or not np.isnan(made.completions[0].logprobs).any()


def test_the_gradient_is_that_of_the_sampled_tokens_alone(worker: RolloutWorker) -> None:
    made = episodes(worker)
    place = next(i for i, each in enumerate(made.completions) if np.isnan(each.logprobs).any())
    arrays = learner_arrays(made.part([place]), np.array([0.7]), 0)
    own = np.isfinite(made.completions[place].logprobs)
    start = len(made.prompts[place])
    assert arrays["mask"][0].tolist() == [0.0] * start + own.astype(float).tolist()
    assert np.isfinite(arrays["old_logprobs"]).all()
    model = worker.engine.model.train()
    batch = {name: torch.from_numpy(values) for name, values in arrays.items()}
    loss, _ = Policy().loss_sum(model, batch)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    logits = model(input_ids=batch["ids"]).logits[0, :-1].log_softmax(-1)
    plain = logits.gather(-1, batch["ids"][0, 1:, None])[start - 1 :, 0]
    (-0.7 * plain[torch.from_numpy(own)].sum()).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=2e-2, atol=2e-3)


def test_a_task_of_one_turn_is_sampled_as_before(worker: RolloutWorker, tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("def tasks():\n    yield 'a', 'b'\n")
    plain = read_plugin(f"{tmp_path / 'plain.py'}:tasks", "rl.task").load
    engine = small_engine()
    prompt = encode_prompt(engine.tokenizer, [{"role": "user", "content": "Say it."}])
    task = Task("d", [{"role": "user", "content": "Say it."}])
    found = Player(engine, Turns(plain, 3, 100)).play([task], [prompt], HEAT, [7])
    assert found.completions == found.last == engine.generate([prompt], HEAT, [7])
    assert Player(engine, Turns(plain, 3, 100)).room(40) == 40
    assert Player(engine, replace(LIMITS, tokens=100)).room(40) == 100


def test_the_index_of_a_run_answers_searches(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    with Session(store, max_workers=0) as session:
        clean = clean_artifact(store, news())
        index, _ = execute(Index(IndexConfig(passage_words=40)), {"clean": clean}, session)
    found = open_search(PassageIndex, index.location)
    task = search_task(TASK)
    reply = found.reply([*task.prompt, {"role": "assistant", "content": "search: old bridge Leeds"}], task)
    assert reply is not None and reply.startswith("[1] Leeds rebuilds its old bridge\nThe council of Leeds")
    names = [each.stages for each in Rl(RlConfig(task="search")).needs()]
    assert ("grounded",) in names and ("index",) in names
    assert RlConfig(task="search").verifiers() == {"citations": 1.0}
