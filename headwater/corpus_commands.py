"""`headwater clean` and `headwater explain`: the corpus engine without a recipe, and its reasons."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from headwater.options import AddressOption, MaxWorkersOption, StoreOption, console

if TYPE_CHECKING:
    from cluster.artifact import Artifact
    from data_pipeline.explain import Fate


def clean(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT…",
            help="WARC, WET, JSONL and Parquet files, folders of pages; paths, globs, http(s)://, s3://.",
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of the result; a path or s3://.")],
    steps: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Only these steps; all unless given.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe whose `clean` section is taken.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="STEP.KEY=VALUE", help="Overrule a setting: gopher_quality.min_words=80."
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column or key of the text.")] = "text",
    id_column: Annotated[str, typer.Option(help="Column or key of the identifier.")] = "id",
    url_column: Annotated[str, typer.Option(help="Column or key of the address.")] = "url",
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Go on without files that cannot be opened.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a result of other inputs or settings.")
    ] = False,
    address: AddressOption = None,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Clean documents: kept/ and rejected/ (each with its reason), funnel.json, funnel.png. Killed at any
    moment, the same command goes on."""
    from cluster.artifact import Artifact
    from cluster.session import Session
    from cluster.store import Store
    from data_pipeline.cleaning import CleanJob
    from data_pipeline.cleaning import clean as clean_files
    from data_pipeline.sources.spec import Columns
    from headwater.recipe import load_clean

    columns = Columns(text=text_column, id=id_column, url=url_column)
    config = load_clean(recipe, steps.split(",") if steps else None, set_ or [])
    job = CleanJob(inputs, output, config, columns, skip_unreadable)
    store = Store(job.work)
    store.check_writable()
    with contextlib.ExitStack() as stack:
        stack.enter_context(store.locked())
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-logs-")))
        session = stack.enter_context(
            Session(store, console=console, address=address, logs_to=logs, max_workers=max_workers)
        )
        manifest, found = clean_files(job, session, overwrite=overwrite)
    Artifact(job.work).delete_folder("")
    kept, read = manifest.metrics["documents_kept"], manifest.metrics["documents_in"]
    state = "finished before; nothing to do." if found else "done."
    console.print(
        f"[bold green]✓[/] {state} {kept:,} of {read:,} documents kept → {output}",
        highlight=False,
        soft_wrap=True,
    )


def explain(
    document: Annotated[str, typer.Argument(metavar="ID-or-URL", help="A document.")],
    corpus: Annotated[
        str | None,
        typer.Option("--in", metavar="DIR", help="A folder that `headwater clean` made, not a store."),
    ] = None,
    store: StoreOption = "store",
) -> None:
    """Tell why a document was kept or dropped: step, rule, score, threshold, what it is a copy of, and in
    which token rows it stands."""
    from cluster.artifact import Artifact
    from cluster.errors import HeadwaterError
    from cluster.store import Store
    from data_pipeline.explain import explain as look_up

    if corpus is not None:
        places: list[tuple[Artifact, list[Artifact]]] = [(Artifact(corpus), [])]
    else:
        manifests = Store(store).manifests()
        artifacts = {m.key: Store(store).artifact(m.stage, m.key) for m in manifests}
        places = [
            (
                artifacts[m.key],
                [artifacts[t.key] for t in manifests if t.stage == "tokenize" and t.inputs["clean"] == m.key],
            )
            for m in manifests
            if m.stage == "clean"
        ]
    where = corpus or store
    if not any(artifact.manifest() for artifact, _ in places):
        raise HeadwaterError("no cleaned corpus here", where=where, fix="give --in DIR or --store")
    known = False
    for artifact, tokenized in places:
        for fate in look_up(artifact, document):
            known = True
            _tell(fate, artifact, tokenized)
    if not known:
        raise HeadwaterError(
            f"no document has the id or URL {document}", where=where, fix="it may never have been read"
        )


def _tell(fate: Fate, corpus: Artifact, tokenized: list[Artifact]) -> None:
    from data_pipeline.explain import explain as look_up
    from data_pipeline.explain import token_places

    row = fate.row
    console.print(f"[bold]{escape(row['title'] or row['url'] or row['id'])}[/]", highlight=False)
    lines: list[tuple[str, Any]] = [("id", row["id"]), ("url", row["url"]), ("read from", row["source"])]
    if fate.kept:
        lines.append(("kept", corpus.path(fate.file)))
        for rows in tokenized:
            for place in token_places(rows, row["id"]):
                numbers = ", ".join(map(str, place.rows))
                lines.append(
                    ("tokens", f"{rows.path(place.shard)} rows {numbers}, from position {place.start}")
                )
    else:
        lines.append(("dropped by", f"{row['step']}: {row['reason'].replace('_', ' ')}"))
        if row["score"] is not None:
            limit = "" if row["threshold"] is None else f", the limit is {row['threshold']:.4g}"
            lines.append(("score", f"{row['score']:.4g}{limit}"))
        if row["duplicate_of"]:
            others = [other.row["url"] for other in look_up(corpus, row["duplicate_of"])]
            lines.append(("copy of", " ".join([row["duplicate_of"], *others])))
        lines.append(("stands in", corpus.path(fate.file)))
    for name, value in lines:
        console.print(f"  {name:<11}{escape(str(value))}", highlight=False, soft_wrap=True)
