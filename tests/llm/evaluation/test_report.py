"""The report card: complete, readable, and harmless whatever the models wrote."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

from headwater.llm.evaluation.measures import FunnelStep, Metric, Report, Sample
from headwater.llm.evaluation.report import Planned, StageSummary, duration, to_markdown, write_report


def test_benchmarks_are_a_table_with_what_they_are() -> None:
    rows = {"piqa, acc_norm": ["200", "0.50", "0.560 (0.491 to 0.627)"]}
    card = to_markdown(Report("card", benchmarks=(["questions", "chance", "base"], rows)), {})
    assert "| benchmark, measure | questions | chance | base |" in card
    assert "| piqa, acc_norm | 200 | 0.50 | 0.560 (0.491 to 0.627) |" in card
    assert "cannot be compared" in card and "## Benchmarks" not in to_markdown(Report("card"), {})


def full_report() -> Report:
    steps = range(0, 400, 4)
    return Report(
        title="quickstart",
        summary=["3,824 articles became a model of 3.1 M parameters in 9 min 12 s."],
        metrics=[
            Metric("bits_per_byte", 2.0312, baseline=3.4121, baseline_name="unigram model"),
            Metric("reward", 1.25, baseline=-0.125, baseline_name="before RL"),
            Metric("reward_accuracy", 0.93),
            Metric("parameters", 3_145_728),
            Metric("never measured", None, "A figure that is missing."),
        ],
        funnel=[
            FunnelStep("read", 3824),
            FunnelStep("language", 3790, {"not_english": 34}),
            FunnelStep("quality", 3402, {"too_few_words": 310, "few_stop_words": 50, "bullets": 28}),
            FunnelStep("near duplicates", 3311, {"near_duplicate": 91}),
        ],
        pretrain_speed=[(s, 12_000 + 500 * math.sin(s)) for s in steps],
        pretrain_loss=[(s, 8.3 * math.exp(-s / 90) + 3.9 + 0.2 * math.sin(s * 1.7)) for s in steps],
        validation_bits_per_byte=[(s, 3.2 * math.exp(-s / 110) + 1.95) for s in range(0, 401, 50)],
        unigram_bits_per_byte=3.4121,
        sft_loss=[(s, 2.2 * math.exp(-s / 60) + 2.1 + 0.2 * math.sin(s)) for s in steps],
        sft_heldout_loss=[(s, 2.1 * math.exp(-s / 60) + 2.5) for s in range(0, 400, 80)],
        reward_loss=[(s, 0.7 * math.exp(-s / 70) + 0.05 * math.sin(s) ** 2) for s in range(0, 120, 3)],
        reward_accuracy=[(s, 0.93 - 0.43 * math.exp(-s / 40)) for s in range(0, 120, 20)],
        rl_reward=[(i, -0.1 + 1.4 * (1 - math.exp(-i / 8)) + 0.1 * math.sin(i)) for i in range(20)],
        rl_verifiable=[(i, 0.3 + 0.4 * (1 - math.exp(-i / 9)) + 0.03 * math.cos(i * 2)) for i in range(20)],
        rl_kl=[(i, 0.004 * i + 0.003 * math.sin(i)) for i in range(20)],
        planned=[
            Planned("seconds in all", 120.0, 126.0),
            Planned("validation, bits per byte", 2.1, 2.0312, 2.0, 2.2),
        ],
        samples=[
            Sample(
                "Write a headline: the council voted",
                "Bridge the the",
                "Council votes",
                "Council backs bridge",
                -1,
                2,
            ),
            Sample("Hm? ```\n# not a heading <script>", after="| a | b |\n```"),
        ],
        stages=[
            StageSummary("acquire", "0123456789abcdef", 12.3),
            StageSummary("clean", "fedcba9876543210", 33.0, {"acquire": "0123456789abcdef"}),
        ],
        machine={"cpu": "2 cores", "memory": "8 GB"},
        versions={"torch": "2.13.0"},
    )


def test_the_card_holds_tables_pictures_samples_and_lineage(tmp_path: Path) -> None:
    names = write_report(tmp_path, full_report())
    assert sorted(names) == ["funnel.png", "losses.png", "report.json", "report.md", "reward.png"]
    assert all((tmp_path / name).stat().st_size > 500 for name in names)
    text = (tmp_path / "report.md").read_text()
    for expected in (
        "# quickstart",
        "| bits per byte | 2.031 | 3.412 unigram model | Cross-entropy on the validation text",
        "| parameters | 3,145,728 |",
        "| never measured | – |",
        "| quality | 3,402 | 388 | too_few_words 310, few_stop_words 50, bullets 28 |",
        "![Documents left after each step of cleaning](funnel.png)",
        "before RL  (reward -1.00) Bridge the the",
        "| clean | `fedcba9876543210` | acquire `01234567` | 33.0 s |",
        "| all |  |  | 45.3 s |",
        "| seconds in all | 120 | 126 | +5.0% |",
        "| validation, bits per byte | 2.1 (2 to 2.2) | 2.031 | -3.3% |",
        "| torch | 2.13.0 |",
    ):
        assert expected in text, expected


def test_long_reasons_stay_inside_the_picture(tmp_path: Path) -> None:
    reasons = {"gopher_below_alpha_threshold": 98, "gopher_short_doc": 38, "gopher_too_many_bullets": 24}
    write_report(tmp_path, Report(title="long", funnel=[FunnelStep("gopher_quality", 3589, reasons)]))
    pixels = matplotlib.image.imread(tmp_path / "funnel.png")
    assert (pixels[:, -5:] == 1).all(), "the right edge is white"
    assert (pixels[:, :-5] != 1).any()


def test_the_json_is_the_whole_card_and_strictly_json(tmp_path: Path) -> None:
    report = full_report()
    report.rl_kl = [(0, math.nan), (1, 0.5)]
    report.metrics.append(Metric("broken", math.inf))
    write_report(tmp_path, report)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert read["rl_kl"] == [[0, None], [1, 0.5]]
    assert read["metrics"][-1]["value"] is None
    assert read["stages"][1]["inputs"] == {"acquire": "0123456789abcdef"}


def test_a_report_of_one_stage_omits_missing_sections(tmp_path: Path) -> None:
    assert sorted(write_report(tmp_path, Report("only a title"))) == ["report.json", "report.md"]
    assert (tmp_path / "report.md").read_text() == "# only a title\n"
    names = write_report(tmp_path, Report("one curve", pretrain_loss=[(0, 8.0), (1, math.nan)]))
    assert "losses.png" in names and "reward.png" not in names


def test_model_output_cannot_inject_markup_into_the_card() -> None:
    text = to_markdown(full_report(), {})
    fence = text.index("````text")
    block = text[fence : text.index("````", fence + 4)]
    assert "<script>" in block and "| a | b |" in block
    hostile = to_markdown(Report("t", metrics=[Metric("a|b", "<img src=x> | [x](y)\n# h")]), {})
    assert "| a\\|b | &lt;img src=x> \\| \\[x](y) # h |" in hostile


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    write_report(tmp_path / "b", full_report())
    for name in write_report(tmp_path / "a", full_report()):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("seconds", "shown"), [(4.21, "4.2 s"), (59.97, "1 min 00 s"), (185, "3 min 05 s"), (7810, "2 h 10 min")]
)
def test_durations_read_well(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_importing_the_stage_modules_is_quick_work() -> None:
    """The command line imports every stage, so none may import torch, ray or transformers at module level."""
    code = (
        "import sys, headwater.data_pipeline.tokens.tokenize, headwater.data_pipeline.tokens.tokenizer\n"
        "import headwater.llm.evaluation.report, headwater.llm.examples.chat\n"
        "import headwater.llm.examples.preferences\n"
        "heavy = {'torch', 'ray', 'transformers', 'matplotlib', 'tokenizers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
