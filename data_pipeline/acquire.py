"""The stage `acquire`: reads all sources of the recipe into Parquet parts with one schema.

A unit of work is one input file, or a group of files for folder sources. Its worker streams the file
and writes `documents/<unit>-<part>.parquet`; names and bytes depend only on the input. An interrupted
unit resumes within its file, after its last part (data_pipeline/parts.py). Unreadable inputs are listed
in `unread/<unit>.parquet` (file, position, reason).
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.extras import require
from headwater.cluster.runtime.needs import Moments, pool
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import Stage, StageConfig
from headwater.cluster.storage.artifact import SCRATCH, Artifact
from headwater.cluster.storage.filesystem import filesystem
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.parts import PROBLEMS_SHOWN, UNREAD, PartWriter
from headwater.data_pipeline.sources.items import Unread, UnreadableFile
from headwater.data_pipeline.sources.opening import REMOTE, is_url
from headwater.data_pipeline.sources.position import Position
from headwater.data_pipeline.sources.proxy import ENVIRONMENT, proxy_of
from headwater.data_pipeline.sources.spec import (
    CommonCrawlSource,
    CrawlSource,
    DocumentFiles,
    FileSource,
    Proxied,
    Source,
)

if TYPE_CHECKING:
    from headwater.data_pipeline.sources.common_crawl.selection import Selection

CRAWL = "crawl"
"""Folder of the artifact with a folder for each source that is a crawl."""


class AcquireConfig(StageConfig):
    """Settings of the stage `acquire`."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Sources to read, in this order."""
    documents_per_part: int = Field(default=512, gt=0)
    """Maximum number of documents per output file. Lower it to reduce the memory of workers."""
    on_error: Literal["reject", "fail"] = "reject"
    """Handling of a file that cannot be read at all: `reject` counts it and continues, `fail` stops."""


class Acquire(Stage[AcquireConfig]):
    """Sources → `documents/*.parquet` (documents.SCHEMA) and `unread/*.parquet`."""

    name: ClassVar[str] = "acquire"
    version: ClassVar[int] = 5

    def fingerprint(self, session: Session) -> dict[str, Any]:
        from headwater.data_pipeline.sources.listing import fingerprint

        return fingerprint(self.config.sources)

    def resources(self, settings: Mapping[str, StageConfig]) -> Moments:
        return [pool()]

    def check(self) -> None:
        """Raise HeadwaterError if a source asks for OCR without its packages."""
        if any(isinstance(source, DocumentFiles) and source.ocr for source in self.config.sources):
            require("ocr")

    def files(self) -> Iterable[tuple[str, str]]:
        for number, source in enumerate(self.config.sources):
            key, paths = "paths", source.paths if isinstance(source, FileSource) else ()
            if isinstance(source, CommonCrawlSource):
                key, paths = "root", (source.root,)
            credentials = source.proxy_credentials if isinstance(source, Proxied) else ""
            if credentials and not credentials.startswith(ENVIRONMENT):
                yield f"sources.{number}.proxy_credentials", credentials
            for path in paths:
                if not is_url(path) and not path.startswith(REMOTE):  # their reader reports those
                    yield f"sources.{number}.{key}", path

    def run(self, inputs: Mapping[str, Artifact], output: Artifact, session: Session) -> dict[str, Any]:
        from headwater.cluster.runtime.parallel import map_units

        for source in self.config.sources:
            if isinstance(source, Proxied):
                proxy_of(source)
        units = _units(self.config, self._gathered(output, session), output.location)
        results = map_units(
            session,
            output,
            self.name,
            units,
            ReadWorker,
            worker_args={"config": self.config, "output": output},
        )
        self._check(units, results, output)
        return _metrics(results, sum(len(unit["paths"]) for unit in units), session)

    def selections(self, output: Artifact, session: Session) -> dict[int, Selection]:
        """What each Common Crawl source will fetch, by its index; looked up unless `output` has it."""
        from headwater.data_pipeline.sources.common_crawl.selection import select

        sources = enumerate(self.config.sources)
        chosen = [(index, source) for index, source in sources if isinstance(source, CommonCrawlSource)]
        return {index: select(source, index, output, session) for index, source in chosen}

    def _gathered(self, output: Artifact, session: Session) -> dict[int, list[str]]:
        """Files of each source that makes them itself, by its index: the WARC files of a crawl, which is
        finished first, and the lists of pages to fetch from Common Crawl."""
        from headwater.data_pipeline.crawl.run import crawl, summary, warc_files
        from headwater.data_pipeline.sources.common_crawl.selection import unit_files

        found = {}
        for index, chosen in self.selections(output, session).items():
            session.say(f"common_crawl: {chosen.line()}")
            found[index] = unit_files(index, output)
        for index, source in enumerate(self.config.sources):
            if isinstance(source, CrawlSource):
                folder = Artifact(output.path(f"{CRAWL}/{index}"))
                counts = crawl(source, folder, output.path(f"{SCRATCH}/{CRAWL}-{index}"), session)
                session.say(f"crawl: {summary(counts)}")
                found[index] = warc_files(folder)
        return found

    def _check(self, units: list[dict[str, Any]], results: list[dict[str, Any]], output: Artifact) -> None:
        """Raise HeadwaterError if no document was read, or if a file could not be opened under `fail`."""
        unopened = [(unit, result) for unit, result in zip(units, results, strict=True) if result["unopened"]]
        nothing = not any(result["documents"] for result in results)
        if not nothing and not (unopened and self.config.on_error == "fail"):
            return
        fs, root = filesystem(output.path(f"{SCRATCH}/{self.name}"))
        for unit, _ in unopened if not nothing else zip(units, results, strict=True):
            with contextlib.suppress(FileNotFoundError):
                fs.delete_file(f"{root}/{unit['unit']}.json")  # so that the next run retries it
        problems = [problem for result in results for problem in result["problems"]]
        first = problems[0] if problems else {"file": "", "position": "", "reason": "no_text", "detail": ""}
        listed = "; ".join(_describe(problem) for problem in problems[:PROBLEMS_SHOWN])
        count = sum(sum(result["rejected"].values()) for result in results)
        if nothing:
            more = f" and {count - PROBLEMS_SHOWN} more" if count > PROBLEMS_SHOWN else ""
            raise HeadwaterError(
                f"no document could be read: {listed}{more}",
                where=first["file"],
                fix="correct the sources of `acquire`",
            )
        problem = unopened[0][1]["unopened"][0]
        raise HeadwaterError(
            f"{problem['reason']}: {problem['detail']}",
            where=problem["file"],
            fix="correct it, or set `on_error: reject` to skip this file",
        )


def _describe(problem: Mapping[str, str]) -> str:
    place = f" ({problem['position']})" if problem["position"] else ""
    return f"{problem['file']}{place}: {problem['reason']}, {problem['detail']}"


def _units(
    config: AcquireConfig, gathered: Mapping[int, list[str]] = {}, root: str = ""
) -> list[dict[str, Any]]:
    """One unit per file. In folders, where each file is one document, one unit per output part. A unit's name
    does not depend on the `root` below which gathered files are."""
    from headwater.data_pipeline.sources.listing import input_files

    groups: list[tuple[int, list[str]]] = []
    for index, source in enumerate(config.sources):
        if isinstance(source, FileSource):
            paths = [file.path for file in input_files(source, source.kind)]
            size = config.documents_per_part if source.kind == "folder" else 1
            groups += [(index, paths[start : start + size]) for start in range(0, len(paths), size)]
        elif isinstance(source, CrawlSource | CommonCrawlSource):
            groups += [(index, [path]) for path in gathered[index]]
        else:
            groups.append((index, [source.package]))
    units = []
    for number, (index, paths) in enumerate(groups):
        names = "\n".join(path.removeprefix(root) for path in paths)
        digest = hashlib.blake2b(names.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
        units.append({"unit": f"{number:05d}-{digest}", "source": index, "paths": paths})
    return units


class ReadWorker:
    """Reads units. Created once per worker process."""

    def __init__(self, config: AcquireConfig, output: Artifact) -> None:
        self._config, self._output = config, output

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        from headwater.data_pipeline.sources import read_source

        source = self._config.sources[unit["source"]]
        parts = PartWriter(self._output, unit["unit"], self._config.documents_per_part)
        first, begin = parts.begin
        for number, path in enumerate(unit["paths"][first:], first):
            position = Position(begin if number == first else None)
            parts.reading(number, position)
            before = parts.documents
            try:
                for item in read_source(source, path, position):
                    if isinstance(item, Document):
                        parts.add(item)
                    else:
                        parts.reject(item)
            except UnreadableFile as error:
                problem = Unread(path, error.position, error.reason, error.detail)
                parts.reject(problem, unopened=parts.documents == before and position.begin is None)
        return parts.close()


def _metrics(results: list[dict[str, Any]], files: int, session: Session) -> dict[str, Any]:
    rejected: collections.Counter[str] = collections.Counter()
    for result in results:
        rejected.update(result["rejected"])
    documents = sum(result["documents"] for result in results)
    size = sum(result["bytes"] for result in results)
    session.say(
        f"{documents:,} documents, {size / 1e6:,.1f} MB, from {files:,} input file{'s'[: files != 1]}"
    )
    if rejected:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(rejected.items()))
        session.say(f"not read: {reasons} (see `{UNREAD}/` of the artifact)")
    return {
        "documents": documents,
        "bytes": size,
        "files": files,
        "units": len(results),
        "rejected": dict(sorted(rejected.items())),
        "problems": [problem for result in results for problem in result["problems"]][:PROBLEMS_SHOWN],
    }
