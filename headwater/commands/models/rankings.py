"""`headwater rankings`: what people have ranked, how far they agree; imports and exports."""

from __future__ import annotations

import collections
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from headwater.options import JsonOption, StoreOption, console
from headwater.tables import print_json, show

if TYPE_CHECKING:
    from headwater.llm.rankings.raters import Summary

app = typer.Typer(help="Look at people's rankings; import and export them.", no_args_is_help=True)


@app.command("list")
def list_(store: StoreOption = "store", json: JsonOption = False) -> None:
    """Show how many rankings there are by rater, how far raters agree, and who cannot be believed."""
    from headwater.cluster.storage.store import Store
    from headwater.llm.examples import rankings
    from headwater.llm.rankings.raters import summarise

    opened = Store(store)
    opened.check_readable()
    bad: dict[str, str] = {}
    found = summarise([kept.ranking for kept in rankings.read(opened, bad)])
    if json:
        print_json({"store": opened.location, **asdict(found), "unreadable": bad})
        return
    show(console, _table(found, opened.location), *_lines(found, bad))


def _table(found: Summary, location: str) -> Table:
    table = Table(title=f"rankings in {location}", title_justify="left")
    columns = (
        "rater",
        "rankings",
        "ties",
        "agrees with others",
        "with oneself",
        "first shown",
        "pace",
        "weight",
    )
    for column in columns:
        table.add_column(column)
    for rater in found.raters:
        shares = [_share(*pair) for pair in (rater.agreement, rater.retest, rater.first_shown)]
        pace = "" if rater.seconds is None else f"{rater.seconds:,.0f} s"
        name = f"[red]{escape(rater.name)}[/]" if rater.faults else escape(rater.name)
        table.add_row(name, f"{rater.rankings:,}", f"{rater.ties:,}", *shares, pace, f"{rater.weight:.2f}")
    return table


def _lines(found: Summary, bad: dict[str, str]) -> list[str]:
    alpha = "not known: nobody judged the same two answers"
    if found.alpha is not None:
        alpha = f"{found.alpha:.3f} ordinal, {found.alpha_nominal:.3f} nominal"
    lines = [
        f"{found.rankings:,} rankings, {found.ties:,} of them ties; "
        f"{found.shared_items:,} pairs judged by several",
        f"Krippendorff's alpha {alpha}; test and retest {_share(*found.retest) or 'not known'}",
    ]
    for rater in found.raters:
        lines += [f"[red]{escape(rater.name)}[/] {escape(fault)}" for fault in rater.faults]
    return lines + [f"[yellow]unreadable[/] {escape(path)}: {escape(fault)}" for path, fault in bad.items()]


def _share(hits: int, count: int) -> str:
    return f"{hits / count:.0%} of {count:,}" if count else ""


@app.command("export")
def export_(
    output: Annotated[Path, typer.Argument(help="JSON Lines file to write; - writes to stdout.")],
    store: StoreOption = "store",
    rater: Annotated[list[str] | None, typer.Option(help="Only of this rater; repeatable.")] = None,
    believed: Annotated[
        bool, typer.Option("--believed", help="Leave out raters whom `rankings list` finds fault with.")
    ] = False,
) -> None:
    """Write the pairs of better and worse answers as `reward.data` and `dpo.data` read them."""
    from headwater.cluster.storage.store import Store
    from headwater.llm.examples import rankings
    from headwater.llm.rankings.pairs import pair_lines
    from headwater.llm.rankings.raters import summarise

    opened = Store(store)
    opened.check_readable()
    kept = rankings.read(opened)
    out = set()
    if believed:
        out = {each.name for each in summarise([one.ranking for one in kept]).raters if each.faults}
    chosen = [k for k in kept if k.ranking.rater not in out and (not rater or k.ranking.rater in rater)]
    lines = list(pair_lines(chosen))
    if output == Path("-"):
        typer.echo("".join(lines), nl=False)
        return
    output.write_text("".join(lines), encoding="utf-8")
    show(console, f"{output}: {len(lines):,} pairs of {len(chosen):,} rankings")


@app.command("import")
def import_(
    file: Annotated[
        str,
        typer.Argument(
            help="Open WebUI's feedback export, Argilla records, or preference, hh or oasst records: "
            "JSON, JSON Lines or Parquet; a path, s3://, hf:// or http(s)://."
        ),
    ],
    store: StoreOption = "store",
    rater: Annotated[str, typer.Option(help="Whose rankings they are; default: as the file says.")] = "",
) -> None:
    """Add rankings from another tool; importing a file again adds nothing."""
    from headwater.cluster.storage.store import Store
    from headwater.data_pipeline.sources.items import Unread
    from headwater.llm.examples import rankings
    from headwater.llm.rankings.imports import imported

    opened = Store(store)
    before = set(opened.folder(rankings.RANKINGS).files(suffix=".json"))
    count, problems = 0, []
    with console.status(f"importing {escape(file)}"):
        for each in imported(file, rater):
            if isinstance(each, Unread):
                problems.append(each)
            else:
                count += 1
                rankings.save(opened, each)
    added = set(opened.folder(rankings.RANKINGS).files(suffix=".json")) - before
    show(console, f"{count:,} rankings in {escape(file)}, {len(added):,} of them new")
    for (reason, detail), times in collections.Counter((p.reason, p.detail) for p in problems).most_common(5):
        show(console, f"[yellow]skipped[/] {times:,}: {escape(reason)}, {escape(detail)}")
    if not count:
        raise typer.Exit(1)


@app.command()
def restore(
    rater: Annotated[str | None, typer.Argument(help="Whose rankings; default: everybody's.")] = None,
    store: StoreOption = "store",
) -> None:
    """Learn again from rankings that `headwater improve` has set aside."""
    from headwater.cluster.storage.store import Store
    from headwater.llm.rankings.aside import restore as take_back

    opened = Store(store)
    opened.check_readable()
    whose = f" of {escape(rater)}" if rater else ""
    show(console, f"{take_back(opened, rater):,} rankings{whose} are learnt from again")
