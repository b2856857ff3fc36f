"""From a step to its documents and back: both directions agree, and neither scans other steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.data_pipeline.explain import token_places
from headwater.data_pipeline.tokens.packing import Packing, pack
from headwater.data_pipeline.tokens.shards import TokenRows, write_shard
from headwater.llm.examples.conversations import headline_conversation
from headwater.llm.examples.encoded import EncodedExamples, write_examples
from headwater.llm.examples.preferences import headline_pairs
from headwater.llm.rows.mixture import BLOCK, MixtureOrder
from headwater.llm.rows.order import ShuffledOrder, Visit
from headwater.llm.rows.permutation import inverse_permutation, permutation
from headwater.llm.rows.row_documents import row_documents, visits
from headwater.llm.stages.data.pair_batches import PairBatches
from headwater.llm.stages.pretrain import RowBatches
from headwater.llm.stages.sft import ConversationEncoder, SftConfig
from headwater.llm.stages.trace import reading
from tests.llm.chat_tokenizer import chat_tokenizer
from tests.llm.models import save_model

END, PAD, LENGTH = 0, 3, 24
seeds = st.integers(0, 2**64 - 1)


@settings(deadline=None)
@given(st.integers(1, 5000), seeds, st.integers(0, 1000))
def test_the_inverse_undoes_the_permutation(n: int, seed: int, epoch: int) -> None:
    everywhere = np.arange(n)
    assert (inverse_permutation(n, seed, epoch, permutation(n, seed, epoch, everywhere)) == everywhere).all()
    assert (permutation(n, seed, epoch, inverse_permutation(n, seed, epoch, everywhere)) == everywhere).all()


@settings(deadline=None)
@given(st.integers(1, 2**40), seeds, st.integers(0, 100), st.data())
def test_the_inverse_is_exact_among_very_many_rows(
    n: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8)))
    assert (inverse_permutation(n, seed, epoch, permutation(n, seed, epoch, indices)) == indices).all()


def scanned(plan: ShuffledOrder | MixtureOrder, row: int, steps: int) -> list[tuple[int, int]]:
    """Steps and places of a row, found by looking at every step."""
    return [
        (step, int(place)) for step in range(steps) for place in np.flatnonzero(plan.indices(step) == row)
    ]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 50), st.integers(1, 60), seeds, st.integers(0, 40), st.data())
def test_the_visits_of_a_row_are_those_that_a_scan_of_all_steps_finds(
    rows: int, batch: int, seed: int, steps: int, data: st.DataObject
) -> None:
    ends = sorted(data.draw(st.sets(st.integers(1, 20), max_size=3)))
    early = tuple((end, data.draw(st.integers(1, 30))) for end in ends)  # stages with batches of their own
    plan, row = ShuffledOrder(rows, batch, seed, early=early), data.draw(st.integers(0, rows - 1))
    found = plan.visits(row, steps)
    assert [(visit.step, visit.place) for visit in found] == scanned(plan, row, steps)
    assert [visit.epoch for visit in found] == list(range(len(found)))  # once in each


@settings(deadline=None, max_examples=4)
@given(seeds, st.integers(0, 69))
def test_the_visits_of_a_row_of_a_mixture_are_those_of_a_scan_over_more_than_a_block(
    seed: int, row: int
) -> None:
    corpora = (range(0, 40), range(40, 50), range(60, 70))
    plan = MixtureOrder(corpora, (0.7, 0.001, 0.3), 4_000, seed, early=((2, 500), (3, 9_000)))
    steps = BLOCK // 4_000 + 3
    found = plan.visits(row, steps)
    assert [(visit.step, visit.place) for visit in found] == scanned(plan, row, steps)
    assert bool(found) == (row not in range(50, 60))  # those rows are of a corpus that is left out


def test_a_rows_steps_in_a_long_run_over_a_large_corpus_cost_no_scan() -> None:
    plan = ShuffledOrder(10**12, 1024, seed=7)
    (visit,) = plan.visits(123_456_789, steps=10**9)
    assert plan.indices(visit.step)[visit.place] == 123_456_789


@pytest.fixture(params=["concatenate", "best_fit"])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> TokenRows:
    """Two shards of documents whose every token is the document's number."""
    artifact, shards = Artifact(str(tmp_path / "tokenize")), []
    packing: Packing = request.param
    sizes = np.random.default_rng(0).integers(1, 60, 40)
    for shard in range(2):
        documents = [(f"d{n}", np.full(sizes[n], 10 + n)) for n in range(shard * 20, shard * 20 + 20)]
        packed = pack(documents, LENGTH, end_id=END, pad_id=PAD, vocab_size=300, packing=packing)
        name = f"part-{shard}.arrow"
        with artifact.create(f"train/{name}") as stream:
            write_shard(stream, packed)
        shards.append({"name": name, "rows": len(packed.ids)})
    split = {"tokens": 0, "bytes": 0, "documents": 40, "shards": shards}
    nothing = {"tokens": 0, "bytes": 0, "documents": 0, "shards": []}
    index = {"row_length": LENGTH, "vocab_size": 300, "pad_id": PAD, "end_id": END}
    artifact.write_json("rows.json", index | {"splits": {"train": split, "validation": nothing}})
    return TokenRows(artifact, "train")


def test_every_id_of_a_batch_belongs_to_the_document_that_is_named_for_it(rows: TokenRows) -> None:
    source = RowBatches(rows, ShuffledOrder(len(rows), 5, seed=1))
    source.rank, source.world_size = 0, 1
    for step in range(8):
        ids = source.batch(step)["ids"]
        owner = np.full(ids.shape, -1)
        for document in row_documents(rows, source.plan, step):
            owner[document.place, document.start : document.end] = int(document.document_id[1:])
        words = ids >= 10
        assert (owner[words] == ids[words] - 10).all()
        assert (owner[ids == PAD] == -1).all()
        assert len(source.describe(step)) == len(row_documents(rows, source.plan, step))


def test_the_steps_of_a_document_are_those_whose_batches_name_it(rows: TokenRows) -> None:
    plan, steps = ShuffledOrder(len(rows), 5, seed=1, early=((3, 2), (9, 4))), 30
    for number in range(0, 40, 7):
        found = visits(rows, plan, token_places(rows.artifact, f"d{number}"), steps)
        expected = {
            (step, document.place)
            for step in range(steps)
            for document in row_documents(rows, plan, step)
            if document.document_id == f"d{number}"
        }
        assert found and {(visit.step, visit.place) for visit in found} == expected


def documents(count: int) -> list[dict[str, str]]:
    return [
        {"id": f"d{i}", "url": "", "title": f"Bridge number {i} rebuilt", "text": f"Bridge {i} was rebuilt."}
        for i in range(count)
    ]


def test_a_conversation_names_its_document_or_line_also_where_others_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Artifact(str(tmp_path / "sft"))
    lines = tmp_path / "own.jsonl"
    turn = '{"role": "%s", "content": "Hello"}'
    lines.write_text(
        f'{{"messages": [{turn % "user"}]}}\n\n'
        + f'{{"messages": [{turn % "user"}, {turn % "assistant"}]}}\n'
    )
    config = SftConfig(batch=2, seed=3)
    encode = ConversationEncoder(config, Artifact("/nowhere"), save_model(tmp_path / "start"), output)
    encode({"unit": "file-00000", "file": str(lines)})
    given = [*documents(30), {"id": "untitled", "url": "", "title": "", "text": "x"}]
    monkeypatch.setattr("headwater.llm.stages.sft.iter_documents", lambda *_, **__: iter(given))
    encode({"unit": "part-0", "part": "kept/part-0.parquet"})
    examples = EncodedExamples(output, "train")
    assert examples.origins(0) == [f"{lines}:3"]  # the first line has no answer to learn, the second is blank
    asked = reading("sft", config, {}, output)
    for number in examples.made_from("d7"):
        text = chat_tokenizer().decode(examples.gather("ids", np.array([number]))[0])
        assert "Bridge number 7 rebuilt" in text or "Bridge 7 was" in text
    parts = asked.parts(4)
    assert len(parts) == 2
    assert any(visit.step == 4 for visit, _ in asked.visits(parts[0].origin, steps=5))


def test_a_pair_names_both_articles_that_its_answers_head(tmp_path: Path) -> None:
    headlines = {d["id"]: headline_conversation(d)[-1]["content"] for d in documents(9)}  # type: ignore[index]
    pairs = headline_pairs(documents(9), seed=0)
    for pair in pairs:
        assert [headlines[origin] for origin in pair.origins] == [pair.chosen, pair.rejected]
    output = Artifact(str(tmp_path))
    encoded = [{"chosen": [1], "rejected": [2]} for _ in pairs]
    write_examples(
        output, "train/corpus.arrow", encoded, ("chosen", "rejected"), origins=[p.origins for p in pairs]
    )
    order = ShuffledOrder(len(pairs), 4, seed=0)
    described = PairBatches(EncodedExamples(output, "train"), order, PAD).describe(0)
    assert len(described) == 4 and all(line.startswith("d") and ", d" in line for line in described)


def test_examples_of_an_earlier_version_report_that_they_cannot_be_traced(tmp_path: Path) -> None:
    output = Artifact(str(tmp_path))
    write_examples(output, "train/corpus.arrow", [{"chosen": [1], "rejected": [2]}], ("chosen", "rejected"))
    with pytest.raises(HeadwaterError, match="earlier version"):
        EncodedExamples(output, "train").origins(0)
    # A loss that is not a number must not end in an error about something else.
    assert PairBatches(EncodedExamples(output, "train"), ShuffledOrder(1, 1, 0), PAD).describe(0) == [
        "example 0"
    ]


def test_visits_come_in_the_order_of_the_steps() -> None:
    assert sorted([Visit(3, 0, 1, 5), Visit(1, 9, 0, 5)])[0].step == 1
