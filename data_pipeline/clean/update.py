"""Updates a cleaned corpus in place: adds files, removes sources or what sites exclude today.

Only the affected parts are rewritten.
The result equals cleaning all input from the start: documents are scored independently, so old documents
need not be read again, and all decisions are recomputed from all scores. An interrupted update resumes.
Until the manifest is written again, the folder is not a finished corpus.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.parallel import map_units
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute, locate
from headwater.cluster.storage.artifact import MANIFEST, SCRATCH, Artifact, Manifest
from headwater.data_pipeline.acquire import Acquire, AcquireConfig
from headwater.data_pipeline.clean import funnel
from headwater.data_pipeline.clean.card import CARD, described, write_card
from headwater.data_pipeline.clean.part_counts import CountWorker, PartCounts, domain_of
from headwater.data_pipeline.clean.rescore import made_with, units_of
from headwater.data_pipeline.clean.scores import SCORES, read_scores
from headwater.data_pipeline.clean.select_documents import Decisions
from headwater.data_pipeline.clean.stage import (
    MeasureWorker,
    WriteWorker,
    report,
    whole_funnel,
)
from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.corpus import KEPT, REJECTED
from headwater.data_pipeline.crawl.rules_file import RuleBook
from headwater.data_pipeline.crawl.urls import domains_of
from headwater.data_pipeline.documents import SCHEMA as DOCUMENT_SCHEMA
from headwater.data_pipeline.documents import current, host_of
from headwater.data_pipeline.filters.lists import fingerprint
from headwater.data_pipeline.parts import DOCUMENTS
from headwater.data_pipeline.tables import DECISIONS, TEXTS, read_table, write_table

BASE, PLAN = f"{SCRATCH}/base.json", f"{SCRATCH}/plan.json"


class Gone:
    """The documents that a change removes, by their URLs. Raises HeadwaterError for a broken file."""

    def __init__(self, names: Sequence[str], files: Sequence[str] = ()) -> None:
        self._exact, self._files = set(names), files
        self._domains = {name.lower().strip(".") for name in names if "/" not in name}
        self._book = RuleBook(files)

    def __bool__(self) -> bool:
        return bool(self._exact or self._files)

    def __reduce__(self) -> Any:
        """A process of its own reads the files itself."""
        return Gone, (tuple(self._exact), self._files)

    def __call__(self, urls: Sequence[str]) -> np.ndarray:
        """bool [n]: which URLs are named, in a named domain, or excluded by the files."""
        return np.array([self._named(url) or bool(self.reasons(url)) for url in urls], bool)

    def reasons(self, url: str) -> list[str]:
        """Why the files exclude a URL; empty if they do not."""
        return sorted(self._book.of(url)) if self._files else []

    def _named(self, url: str) -> bool:
        if url in self._exact or not self._domains:
            return url in self._exact
        return not self._domains.isdisjoint(domains_of(host_of(url).strip(".")))


@dataclass(frozen=True)
class Change:
    """A change to a corpus: add the documents of an acquisition, forget sources, or both."""

    acquire: AcquireConfig | None = None
    forget: tuple[str, ...] = ()
    """URLs (matched exactly) or domains (matched with all their subdomains) to remove."""
    opt_outs: tuple[str, ...] = ()
    """Block lists and rules of sites (crawl.rules_file): files that say which pages are removed as well."""


def update(corpus: Artifact, change: Change, session: Session) -> tuple[Manifest, bool]:
    """Apply or resume a change. The store of `session` holds the acquired documents.

    Returns the new manifest and whether the corpus already contained the change.
    """
    if change.acquire is not None:
        Acquire(change.acquire).check()
    gone = Gone(change.forget, change.opt_outs)
    identity = _identity(change, session)
    base = _begin(corpus, identity)
    if base is None:
        return corpus.finished(), True
    started = time.time()
    config = made_with(base)
    added, unread, units = _measure(corpus, change, config, base, session)
    old = [unit for unit in units_of(corpus) if unit not in set(added)]
    decisions = _decide(corpus, [*old, *added], config, gone)
    changed = [{"unit": unit} for unit in _plan(corpus, old, config, gone, decisions)]
    merge = {"output": corpus, "gone": gone}
    merged = map_units(session, corpus, "merge", changed, MergeWorker, worker_args=merge, unit_name="parts")
    rewritten = [*changed, *({"unit": unit} for unit in added)]
    for unit in rewritten:
        write_table(corpus, f"{DECISIONS}/{unit['unit']}.parquet", decisions.of(unit["unit"]))
    written: dict[str, Any] = {"worker_args": {"output": corpus}, "unit_name": "parts"}
    results = map_units(session, corpus, "write", rewritten, WriteWorker, **written)
    rest = [{"unit": unit} for unit in sorted(set(old) - {unit["unit"] for unit in changed})]
    results += map_units(session, corpus, "count", rest, CountWorker, **written)
    documents = PartCounts(result["counts"] for result in results)
    _forget_scores(corpus, gone)
    counts = whole_funnel(decisions, unread)
    metrics = report(counts, documents, decisions.replaced, corpus, session)
    metrics |= {"unread": unread, "units": units}
    if change.opt_outs:
        shares = funnel.opted_out((each["opted_out"] for each in merged), base.metrics["characters_kept"])
        corpus.write_json("funnel.json", corpus.read_json("funnel.json") | {"opted_out": shares})
        session.console.print(funnel.opt_out_table(shares))
    write_card(corpus, documents, _sources(corpus, change, session), metrics["funnel"], metrics["replaced"])
    corpus.finish(
        base.model_copy(
            update={
                "key": hashlib.sha256(f"{base.key} {identity}".encode()).hexdigest()[:16],
                "fingerprint": base.fingerprint | {"changes": [*_changes(base), identity]},
                "metrics": base.metrics | metrics,
                "seconds": round(time.time() - started, 2),
            }
        )
    )
    return corpus.finished(), False


def _sources(corpus: Artifact, change: Change, session: Session) -> list[dict[str, Any]]:
    """The sources on the card with those of the change, which an interrupted update may have added."""
    known: list[dict[str, Any]] = corpus.read_json(CARD)["sources"] if corpus.exists(CARD) else []
    added = [] if change.acquire is None else described(locate(Acquire(change.acquire), {}, session))
    return known + [source for source in added if source not in known]


def _identity(change: Change, session: Session) -> str:
    parts = [f"forget {name}" for name in sorted(change.forget)]
    parts += [f"opt-outs {digest}" for digest in sorted(fingerprint(change.opt_outs).values())]
    if change.acquire is not None:
        stage = Acquire(change.acquire)
        parts.append(f"add {stage.key({}, stage.fingerprint(session))}")
    return ", ".join(parts)


def _changes(manifest: Manifest) -> list[str]:
    return list(manifest.fingerprint.get("changes", []))


def _begin(corpus: Artifact, identity: str) -> Manifest | None:
    """Mark the corpus as unfinished and return its manifest before the change. Returns None if the change is
    already its last one."""
    manifest = corpus.manifest()
    if manifest is None:
        if not corpus.exists(BASE):
            raise HeadwaterError("no cleaned corpus here", where=corpus.location, fix="clean something first")
        begun = corpus.read_json(BASE)
        if begun["identity"] != identity:
            raise HeadwaterError(
                f"another change of this corpus is unfinished ({begun['identity']})",
                where=corpus.location,
                fix="repeat that command first",
            )
        return Manifest.model_validate(begun["manifest"])
    if _changes(manifest)[-1:] == [identity]:
        corpus.delete_folder(SCRATCH)
        return None
    if manifest.config.get("substring_dedup", {}).get("enabled"):
        raise HeadwaterError(
            "`substring_dedup` has cut these texts, so they cannot be compared with new ones",
            where=corpus.location,
            fix="clean all inputs together",
        )
    corpus.write_json(BASE, {"identity": identity, "manifest": manifest.model_dump()})
    corpus.delete(MANIFEST)
    return manifest


def _measure(
    corpus: Artifact, change: Change, config: CleanConfig, base: Manifest, session: Session
) -> tuple[list[str], dict[str, int], int]:
    """Acquire and score the added files. Returns their parts, all unread counts and the number of units."""
    unread: dict[str, int] = dict(base.metrics["unread"])
    units: int = base.metrics["units"]
    if change.acquire is None:
        return [], unread, units
    acquired, _ = execute(Acquire(change.acquire), {}, session)
    manifest = acquired.finished()
    work = []
    for part in acquired.files(DOCUMENTS, ".parquet"):
        number, _, rest = PurePosixPath(part).stem.partition("-")
        work.append({"unit": f"{int(number) + units:05d}-{rest}", "part": part})
    map_units(
        session, corpus, "measure", work, MeasureWorker,
        worker_args={"config": config, "output": corpus, "acquired": acquired},
        size=lambda result: result["documents"],
        total=manifest.metrics["documents"],
        unit_name="documents",
    )  # fmt: skip
    for reason, number in manifest.metrics["rejected"].items():
        unread[reason] = unread.get(reason, 0) + number
    return [unit["unit"] for unit in work], dict(sorted(unread.items())), units + manifest.metrics["units"]


def _plan(corpus: Artifact, old: list[str], config: CleanConfig, gone: Gone, after: Decisions) -> list[str]:
    """Old parts to rewrite: those with changed decisions or forgotten documents. Computed once per change."""
    if corpus.exists(PLAN):
        return list(corpus.read_json(PLAN)["changed"])
    before = _decide(corpus, old, config, Gone(()))
    changed = []
    for unit in old:
        stays = pa.array(~gone(_urls(corpus, unit)))
        if not before.of(unit).filter(stays).equals(after.of(unit)) or not pc.all(stays).as_py():
            changed.append(unit)
    corpus.write_json(PLAN, {"changed": changed})
    return changed


def _decide(corpus: Artifact, units: list[str], config: CleanConfig, gone: Gone) -> Decisions:
    stays: dict[str, pa.Array] = {}

    def read(unit: str, columns: Sequence[str] | None) -> pa.Table:
        table = read_scores(corpus, unit, columns)
        if gone and unit not in stays:
            stays[unit] = pa.array(~gone(_urls(corpus, unit)))
        return table.filter(stays[unit]) if gone else table

    return Decisions(read, units, config)


def _urls(corpus: Artifact, unit: str) -> list[str]:
    urls: list[str] = read_scores(corpus, unit, ["url"])["url"].to_pylist()
    return urls


def _forget_scores(corpus: Artifact, gone: Gone) -> None:
    """Remove the score rows of forgotten documents. Must come last, because the other steps need them."""
    for unit in units_of(corpus) if gone else []:
        leaving = gone(_urls(corpus, unit))
        if leaving.any():
            write_table(
                corpus, f"{SCORES}/{unit}.parquet", read_scores(corpus, unit).filter(pa.array(~leaving))
            )


class MergeWorker:
    """Merges kept and rejected texts of one part in reading order, without forgotten documents."""

    def __init__(self, output: Artifact, gone: Gone) -> None:
        self._output, self._gone = output, gone

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        name = unit["unit"]
        kept = current(read_table(self._output, f"{KEPT}/{name}.parquet"))
        rejected = current(read_table(self._output, f"{REJECTED}/{name}.parquet"))
        html = pa.nulls(rejected.num_rows, DOCUMENT_SCHEMA.field("html").type)
        rejected = rejected.append_column("html", html).select(kept.column_names)
        texts = pa.concat_tables([kept, rejected.cast(kept.schema)])
        places = {source: row for row, source in enumerate(texts["source"].to_pylist())}
        scores = read_scores(self._output, name, ["source", "url"])
        stays = ~self._gone(scores["url"].to_pylist())
        excluded = self._excluded(kept)
        order = [places[source] for source in scores["source"].filter(pa.array(stays)).to_pylist()]
        write_table(self._output, f"{TEXTS}/{name}.parquet", texts.take(pa.array(order, pa.int64())))
        return {"documents": len(order), "opted_out": excluded}

    def _excluded(self, kept: pa.Table) -> list[tuple[str, int, list[str]]]:
        """Domain, characters and reasons of each kept document that the files of rules exclude."""
        reasons = [self._gone.reasons(url) for url in kept["url"].to_pylist()]
        rows = zip(kept["url"].to_pylist(), kept["text"].to_pylist(), reasons, strict=True)
        return [(domain_of(url), len(text), why) for url, text, why in rows if why]
