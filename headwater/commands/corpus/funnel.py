"""`headwater explain` and `headwater funnel`: why documents were kept or dropped, and what-if counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from headwater.options import StoreOption, console
from headwater.tables import show

if TYPE_CHECKING:
    from headwater.cluster.storage.artifact import Artifact
    from headwater.data_pipeline.explain import Fate


def explain(
    document: Annotated[str, typer.Argument(metavar="ID-or-URL", help="Id or URL of a document.")],
    corpus: Annotated[
        str | None,
        typer.Option("--in", metavar="DIR", help="Output folder of `headwater clean`, instead of a store."),
    ] = None,
    store: StoreOption = "store",
) -> None:
    """Show why a document was kept or dropped (step, score, threshold), and where its tokens are."""
    from headwater.cluster.errors import HeadwaterError
    from headwater.cluster.storage.artifact import Artifact
    from headwater.cluster.storage.store import Store
    from headwater.data_pipeline.explain import explain as look_up

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
            f"no document has the id or URL {document}", where=where, fix="check it, and the sources"
        )


def _tell(fate: Fate, corpus: Artifact, tokenized: list[Artifact]) -> None:
    from headwater.data_pipeline.explain import explain as look_up
    from headwater.data_pipeline.explain import token_places

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
            limit = "" if row["threshold"] is None else f", threshold {row['threshold']:.4g}"
            lines.append(("score", f"{row['score']:.4g}{limit}"))
        if row["duplicate_of"]:
            others = [other.row["url"] for other in look_up(corpus, row["duplicate_of"])]
            lines.append(("copy of", " ".join([row["duplicate_of"], *others])))
        lines.append(("stored in", corpus.path(fate.file)))
    for name, value in lines:
        console.print(f"  {name:<11}{escape(str(value))}", highlight=False, soft_wrap=True)


def funnel(
    corpus: Annotated[str, typer.Argument(metavar="DIR", help="Output folder of `headwater clean`.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="STEP.KEY=VALUE", help="New threshold: gopher_quality.min_words=80."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Parquet file for all documents' decisions."),
    ] = None,
) -> None:
    """Show what each step dropped; with --set, what it would drop, computed from the stored scores."""
    import pyarrow.parquet as pq

    from headwater.cluster.storage.artifact import Artifact, create_file
    from headwater.data_pipeline.clean.funnel import table
    from headwater.data_pipeline.clean.rescore import config_of, decisions_table, unread_of, what_if
    from headwater.data_pipeline.clean.stage import whole_funnel
    from headwater.recipe import changed_clean

    cleaned = Artifact(corpus)
    made_with = config_of(cleaned)
    decisions = what_if(cleaned, changed_clean(made_with.model_dump(), set_ or [], "--set"))
    counts = whole_funnel(decisions, unread_of(cleaned))
    show(console, table(counts))
    if made_with.substring_dedup.enabled:
        console.print("Not included: substring_dedup, which needs the texts.", highlight=False)
    if set_:
        kept, before = (found.counts[-1].documents_out for found in (decisions, what_if(cleaned, made_with)))
        console.print(f"{kept:,} documents would be kept ({kept - before:+,})", highlight=False)
    if output is not None:
        with create_file(output) as stream:
            pq.write_table(decisions_table(cleaned, decisions), stream, compression="zstd")
        console.print(f"[bold green]✓[/] all decisions → {output}", highlight=False, soft_wrap=True)
