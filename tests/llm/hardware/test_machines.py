"""The table of GPUs: lookup, overrides and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.cluster.errors import HeadwaterError
from headwater.llm.hardware.machines import parse_machine, read_table


def test_eight_h100_have_eight_times_the_peak_and_the_price_of_one() -> None:
    machine = parse_machine("8xH100", read_table())
    assert machine.peak_flops == pytest.approx(8 * 989.5e12)
    assert machine.dollars_per_hour == pytest.approx(8 * 2.99)
    assert parse_machine("2 x l40s", read_table()).name == "L40S"
    assert parse_machine("a100-40gb", read_table()).count == 1


def test_every_row_names_where_its_figures_come_from() -> None:
    assert all(gpu.source and gpu.price_source for gpu in read_table().values())


def test_a_price_list_overrules_single_keys_and_adds_rows(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "H100: {price_per_hour: 1.5}\n"
        "Mine: {memory_gb: 16, peak_tflops: 50, bandwidth_gb_s: 400, price_per_hour: 0}\n"
    )
    table = read_table(tmp_path / "p.yaml")
    assert table["H100"].price_per_hour == 1.5 and table["H100"].memory_gb == 80
    assert parse_machine("4xmine", table).dollars_per_hour == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("H100: {prise: 1}", "H100.prise"),
        ("H100: 3", "must map GPU names to their values"),
        ("New: {price_per_hour: 1}", "New.memory_gb"),
        ("[", "not readable YAML"),
    ],
)
def test_an_invalid_price_list_is_refused_naming_the_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    table_error = pytest.raises(HeadwaterError, match=said)
    with table_error:
        read_table(tmp_path / "p.yaml")


@pytest.mark.parametrize("text", ["8xH10O", "0xH100", "many H100", ""])
def test_unknown_gpus_are_refused_listing_the_known_ones(text: str) -> None:
    with pytest.raises(HeadwaterError, match="known GPUs: H100, H200"):
        parse_machine(text, read_table())
