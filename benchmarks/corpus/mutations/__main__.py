"""Mutated files of every format through the readers: is anything lost in silence, raised, or slow?

    python -m benchmarks.corpus.mutations [--first 0] [--count 20000] [--formats warc csv.gz …] [--state FILE]

File number n is made by seed n alone: a valid file (`files.py`), changed by one to four mutations, or
a bomb. Its format is n modulo the number of formats. Checked: nothing but UnreadableFile is raised; records
that nothing touched become documents; records in = documents + unread (docs/corpus.md says what a record is;
an error at the end names one that is cut off); CPU time (the converters' child process included) and memory.
`--state` keeps what is done, and the next run goes on there. A failure prints its number:
`--first N --count 1 --keep FOLDER` writes the file.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.corpus.mutations.accounts import TOKEN
from benchmarks.corpus.mutations.files import MAKERS
from benchmarks.corpus.mutations.mutating import Case, case
from headwater.data_pipeline.documents import Document, to_table
from headwater.data_pipeline.formats import convert
from headwater.data_pipeline.sources import read_source
from headwater.data_pipeline.sources.items import Unread, UnreadableFile
from tests.data_pipeline.reading import source_of

LIMIT = 300_000
"""`max_document_bytes` of most files; the others have the default."""
SECONDS = 1.0
"""CPU time of a file."""
SHARED_MEMORY = Path("/dev/shm")
MEMORY_BYTES = 400 << 20


def read(
    found: Case, path: Path, limit: int | None
) -> tuple[list[Document], list[Unread], UnreadableFile | None]:
    settings = found.base.settings | ({"max_document_bytes": limit} if limit else {})
    documents, unread = [], []
    try:
        for item in read_source(source_of(found.base.kind, paths=[str(path)], **settings), str(path)):
            (documents if isinstance(item, Document) else unread).append(item)  # type: ignore[arg-type]
    except UnreadableFile as error:
        return documents, unread, error
    return documents, unread, None


def problems(
    found: Case, documents: list[Document], unread: list[Unread], error: UnreadableFile | None
) -> list[str]:
    """What is wrong with the outcome."""
    wrong = []
    if not all(problem.reason and problem.position for problem in unread):
        wrong.append("a reason or position is missing")
    if error is not None and not (error.reason and error.position):
        wrong.append("the file's error has no reason or position")
    to_table(documents)  # as a part is written
    texts = [document.text or (document.html or b"").decode("utf-8", "replace") for document in documents]
    if found.plain is None:
        return wrong if documents or unread or error else [*wrong, "nothing said of the file"]
    magic = re.match(rb"\x1f\x8b|BZh.1AY&SY|\x28\xb5\x2f\xfd|\xfd7zXZ\0", found.data, re.DOTALL)
    if (magic is not None) != (found.base.pack is not None):
        return wrong  # other bytes than those that the account is of
    account = found.base.account(found.base, found.plain)
    if not found.whole and found.base.kind == "mbox":  # where the last message ends is not known
        account.tokens.discard(found.base.parts[-1][0])
    if lost := account.tokens - {token for text in texts for token in TOKEN.findall(text)}:
        wrong.append(f"untouched but lost: {sorted(lost)[:5]} of {len(account.tokens)}")
    if not found.whole and error is None and not (found.base.kind == "folder" or unread):
        wrong.append("the damaged compression is not told")
    count = len(documents) + sum(problem.records for problem in unread)
    if account.records is not None and not lawful(found, account.records, count):
        wrong.append(
            f"{account.records} records in, {len(documents)} documents, {count - len(documents)} unread"
        )
    if error is not None and found.whole and not account.ends:
        wrong.append(f"ends with {error.reason}: {error.detail[:80]}")
    return wrong


def lawful(found: Case, records: int, count: int) -> bool:
    """Whether the items are as many as the records. Of damaged compression `records` are those before the
    damage: the last of them may be cut off, and behind it an archive of members goes on."""
    if found.whole:
        return count == records
    return count >= records - 1 and (count <= records or found.base.kind == "warc")


def cpu_seconds() -> float:
    used = time.process_time()
    if convert._child.cache_info().currsize and (process := convert._child()._process) is not None:
        with_children = psutil.Process(process.pid).cpu_times()
        used += with_children.user + with_children.system
    return used


def check(
    number: int, formats: list[str], folder: Path, limit: int | None = LIMIT
) -> tuple[Case, list[str], float, str]:
    """One file: the case, what is wrong, CPU seconds and the outcome."""
    found = case(number, formats)
    path = folder / found.base.name
    path.write_bytes(found.data)
    started, size = cpu_seconds(), _peak()
    try:
        documents, unread, error = read(found, path, limit)
    except Exception as raised:  # noqa: BLE001 - whatever a library or reader raises
        return found, [f"raised {type(raised).__name__}: {raised}"[:300]], 0.0, "raised"
    seconds = cpu_seconds() - started
    wrong = problems(found, documents, unread, error)
    if seconds > SECONDS:
        wrong.append(f"{seconds:.2f} s of CPU time")
    if (grown := _peak() - size) > MEMORY_BYTES:
        wrong.append(f"{grown >> 20} MiB of memory")
    outcome = (
        "documents" if documents else error.reason if error else unread[0].reason if unread else "nothing"
    )
    return found, wrong, seconds, outcome


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.corpus.mutations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--formats", nargs="+", default=list(MAKERS), choices=list(MAKERS))
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for failing files")
    given = parser.parse_args()
    faulthandler.enable()
    state = json.loads(given.state.read_text()) if given.state and given.state.exists() else {}
    first = max(given.first, state.get("next", 0))
    slowest: list[tuple[float, int, str]] = [tuple(each) for each in state.get("slowest", [])]
    failed, outcomes = state.get("failed", 0), collections.Counter(state.get("outcomes", {}))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        for number in range(first, given.first + given.count):
            if given.state and number % 500 == 0:
                Path(f"{given.state}.now").write_text(str(number))
            limit = None if number % 7 == 0 else LIMIT
            found, wrong, seconds, outcome = check(number, given.formats, Path(folder), limit)
            outcomes[outcome] += 1
            slowest = sorted([*slowest, (round(seconds, 3), number, f"{found.format} {found.what}")])[-5:]
            if wrong:
                failed += 1
                print(f"{number} {found.format} ({found.what}): {'; '.join(wrong)}", flush=True)
                if given.keep:
                    given.keep.mkdir(parents=True, exist_ok=True)
                    (given.keep / f"{number}-{found.base.name}").write_bytes(found.data)
            if time.monotonic() - begun > given.seconds:
                break
    done = {"next": number + 1, "failed": failed, "slowest": slowest, "outcomes": outcomes}
    if given.state:
        given.state.write_text(json.dumps(done))
    took = time.monotonic() - begun
    print(
        f"{number + 1 - first:,} files in {took:.0f} s, {failed:,} failures; peak memory {_peak() >> 20} MiB"
    )
    print(f"slowest (CPU seconds): {slowest[::-1]}")
    print(f"outcomes: {dict(outcomes.most_common())}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
