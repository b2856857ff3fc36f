"""`headwater quality train`: train a classifier for `clean` on good and bad texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from headwater.options import console
from headwater.tables import show

if TYPE_CHECKING:
    from headwater.data_pipeline.filters.classifiers.linear import ModelCard

app = typer.Typer(help="Classifiers of text quality.", no_args_is_help=True)


@app.callback()
def quality() -> None:
    """Classifiers of text quality."""


@app.command()
def train(
    good: Annotated[
        str,
        typer.Argument(
            metavar="GOOD",
            help="Texts to keep: JSONL, Parquet, WARC, folders; paths, globs, http(s)://, s3://.",
        ),
    ],
    bad: Annotated[str, typer.Argument(metavar="BAD", help="Texts to reject, in the same formats.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the model; a path or s3://.")],
    text_column: Annotated[str, typer.Option(help="Column or key of the text.")] = "text",
    held_out: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="Share of the texts held out to test the model.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the held-out split and the training order.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Number of passes over the texts.")] = 10,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing model.")] = False,
) -> None:
    """Train a quality classifier for `clean --set quality_classifier.model=FOLDER`, on the CPU."""
    import contextlib
    import time

    from headwater.cluster.runtime.progress import PLAIN_LINE_SECONDS, Bar, bar
    from headwater.data_pipeline.filters.classifiers.training import Report, TrainSettings
    from headwater.data_pipeline.quality import QualityJob, check_output, train_model
    from headwater.data_pipeline.sources.spec import Columns

    check_output(output, overwrite=overwrite)
    settings = TrainSettings(held_out=held_out, seed=seed, epochs=epochs)
    job = QualityJob((good,), (bad,), output, Columns(text=text_column), settings)
    with contextlib.ExitStack() as stack, console.status("reading") as status:
        printed = time.monotonic()

        def reading(done: int, what: str) -> None:
            nonlocal printed
            status.update(f"reading {what}: {done:,}")
            if not console.is_terminal and time.monotonic() - printed > PLAIN_LINE_SECONDS:
                printed = time.monotonic()
                console.print(f"  reading {what}: {done:,}", highlight=False)

        def training(total: int) -> Report:
            status.stop()
            shown: Bar = stack.enter_context(bar(console, "train", total, "texts"))
            return shown.update

        card = train_model(job, reading, training)
    _tell(card, output)


def _tell(card: ModelCard, output: str) -> None:
    found = card.held_out
    table = Table("threshold", "precision", "recall", "share kept", title="on held-out texts")
    for column in table.columns:
        column.justify = "right"
    for row in found["thresholds"]:
        values = [row["precision"], row["recall"], row["kept"]]
        table.add_row(f"{row['threshold']:.1f}", *("-" if v is None else f"{v:.3f}" for v in values))
    show(console, table)
    read = " and ".join(f"{card.training[kind]['texts']:,} {kind}" for kind in ("good", "bad"))
    console.print(
        f"[bold green]✓[/] {read} texts; on {found['good']:,} + {found['bad']:,} held out: "
        f"accuracy {found['accuracy']:.3f}, AUC {found['auc']:.3f} → {escape(output)}",
        highlight=False,
        soft_wrap=True,
    )
    unread = card.training["unread"]
    if unread:
        reasons = ", ".join(f"{reason.replace('_', ' ')} {number:,}" for reason, number in unread.items())
        console.print(f"  skipped: {reasons}", highlight=False, soft_wrap=True)
