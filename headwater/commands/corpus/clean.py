"""`headwater clean`: clean files into a corpus without a recipe, and update such a corpus."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.options import AddressOption, MaxWorkersOption, console

if TYPE_CHECKING:
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.artifact import Manifest
    from headwater.data_pipeline.clean.standalone import CleanJob


def clean(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INPUT…]",
            help="WARC, WET, JSONL and Parquet files, folders of pages; paths, globs, http(s)://, s3://, hf://datasets/.",
        ),
    ] = None,
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the result; a path or s3://.")],
    steps: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Run only these steps; default: all.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Use the `clean` section of this recipe.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="STEP.KEY=VALUE", help="Override a setting: gopher_quality.min_words=80."
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column or key of the text.")] = "text",
    id_column: Annotated[str, typer.Option(help="Column or key of the identifier.")] = "id",
    url_column: Annotated[str, typer.Option(help="Column or key of the URL.")] = "url",
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Skip files that cannot be opened.")
    ] = False,
    allow_address: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Network that URLs may reach besides public addresses."),
    ] = None,
    ocr: Annotated[
        bool, typer.Option("--ocr", help="Read scanned PDF pages of folders and archives (extra `ocr`).")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a result made from other inputs or settings.")
    ] = False,
    add: Annotated[
        bool, typer.Option("--add", help="Add INPUT to the finished corpus in --output, with its settings.")
    ] = False,
    forget: Annotated[
        list[str] | None,
        typer.Option(metavar="URL-or-domain", help="Remove a source from the finished corpus in --output."),
    ] = None,
    opt_outs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Remove from the finished corpus in --output what sites exclude: a file of "
            "`headwater opt-outs`, or a list of domains and URLs.",
        ),
    ] = None,
    address: AddressOption = None,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Clean documents into kept/, rejected/ (with reasons), scores/ and a funnel. Rerun it to resume."""
    from headwater.data_pipeline.clean.standalone import CleanJob
    from headwater.data_pipeline.sources.spec import Columns
    from headwater.recipe import load_clean

    changing = add or bool(forget) or bool(opt_outs)
    settings = [name for name, given in (("--steps", steps), ("--recipe", recipe), ("--set", set_)) if given]
    if changing and (settings or overwrite):
        raise _refused(
            f"{(settings or ['--overwrite'])[0]} with --add, --forget or --opt-outs",
            "a corpus keeps its settings",
        )
    if add and not inputs:
        raise _refused("--add without INPUT", "name the files to add")
    if inputs and changing and not add:
        raise _refused("INPUT with --forget or --opt-outs", "to do both, give --add, too")
    if not inputs and not changing:
        raise _refused("no INPUT", "name the files to clean")
    columns = Columns(text=text_column, id=id_column, url=url_column)
    config = load_clean(recipe, steps.split(",") if steps else None, set_ or [])
    job = CleanJob(inputs or [], output, config, columns, skip_unreadable, allow_address or (), ocr)
    if max_workers is None and address is None and not changing and job.small:
        max_workers = 0
    with _session(job, address, max_workers) as session:
        if changing:
            manifest, found = _change(job, tuple(forget or ()), tuple(opt_outs or ()), session)
        else:
            from headwater.data_pipeline.clean.standalone import clean as clean_files

            manifest, found = clean_files(job, session, overwrite=overwrite)
    kept, read = manifest.metrics["documents_kept"], manifest.metrics["documents_in"]
    state = "already finished; nothing to do." if found else "done."
    console.print(
        f"[bold green]✓[/] {state} {kept:,} of {read:,} documents kept → {output}",
        highlight=False,
        soft_wrap=True,
    )


def _refused(problem: str, fix: str) -> Exception:
    from headwater.cluster.errors import HeadwaterError

    return HeadwaterError(problem, where="headwater clean", fix=fix)


def _change(
    job: CleanJob, forget: tuple[str, ...], opt_outs: tuple[str, ...], session: Session
) -> tuple[Manifest, bool]:
    from headwater.cluster.storage.artifact import Artifact
    from headwater.data_pipeline.clean.update import Change, update

    change = Change(job.acquire if job.inputs else None, forget, opt_outs)
    return update(Artifact(job.output, "clean"), change, session)


@contextlib.contextmanager
def _session(job: CleanJob, address: str | None, max_workers: int | None) -> Iterator[Session]:
    """A session with a work store next to the output, deleted on success."""
    from headwater.cluster.runtime.session import Session
    from headwater.cluster.storage.artifact import Artifact
    from headwater.cluster.storage.store import Store

    store = Store(job.work)
    store.check_writable()
    with contextlib.ExitStack() as stack:
        stack.enter_context(store.locked())
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-logs-")))
        yield stack.enter_context(
            Session(store, console=console, address=address, logs_to=logs, max_workers=max_workers)
        )
    Artifact(job.work).delete_folder("")
