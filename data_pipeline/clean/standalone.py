"""Cleaning without a recipe: any files in, a folder with `kept/` and `rejected/` out.

Runs the stages `acquire` and `clean`, which resume as usual. The acquired documents stay in
`<output>.work` until the output is finished. The output is the `clean` artifact at the given location.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute, locate
from headwater.cluster.storage.artifact import SCRATCH, Artifact, Manifest
from headwater.cluster.storage.filesystem import list_files
from headwater.data_pipeline.acquire import Acquire, AcquireConfig
from headwater.data_pipeline.clean.stage import Clean, CleanConfig
from headwater.data_pipeline.sources.guess import Files, sources_of
from headwater.data_pipeline.sources.listing import input_files
from headwater.data_pipeline.sources.spec import Columns

CLAIM = f"{SCRATCH}/key"
"""Written first: the key of the unfinished work in an output folder."""


SMALL_BYTES = 1_000_000
"""Inputs up to this size are cleaned by one process without Ray."""


@dataclass(frozen=True)
class CleanJob:
    inputs: Sequence[str]
    """Files, folders, globs, URLs, s3:// and hf:// names."""
    output: str
    config: CleanConfig
    columns: Columns = field(default_factory=Columns)
    """Columns of JSONL and Parquet inputs."""
    skip_unreadable: bool = False
    """Skip files that cannot be opened, and count them in the funnel."""
    allow_addresses: Sequence[str] = ()
    """Networks that URLs may reach besides public addresses."""
    ocr: bool = False
    """Read scanned pages of PDF files, in folders and archives, with OCR."""

    @property
    def _sources(self) -> list[Files]:
        return sources_of(self.inputs, self.columns, self.allow_addresses, self.ocr)

    @property
    def acquire(self) -> AcquireConfig:
        return AcquireConfig(
            sources=tuple(self._sources), on_error="reject" if self.skip_unreadable else "fail"
        )

    @property
    def small(self) -> bool:
        """Whether starting workers takes longer than the work. Raises HeadwaterError for a missing file."""
        files = [file for source in self._sources for file in input_files(source, source.kind)]
        return all(file.identity for file in files) and sum(file.identity[0] for file in files) <= SMALL_BYTES

    @property
    def work(self) -> str:
        return f"{self.output.rstrip('/')}.work"


def clean(job: CleanJob, session: Session, *, overwrite: bool = False) -> tuple[Manifest, bool]:
    """Run or resume the job. The store of `session` must be `job.work`.

    Returns the output's manifest and whether it was already finished. Raises HeadwaterError if the
    output folder belongs to something else, or a package is missing.
    """
    acquire = Acquire(job.acquire)
    stage = Clean(job.config)
    acquire.check()
    stage.check()
    key = stage.key({acquire.name: locate(acquire, {}, session).key}, stage.fingerprint(session))
    output = Artifact(job.output, stage.name, key)
    manifest = _claim(output, overwrite=overwrite)
    if manifest is not None:
        return manifest, True
    acquired, _ = execute(acquire, {}, session)
    execute(stage, {acquire.name: acquired}, session, output=output)
    return output.finished(), False


def _claim(output: Artifact, *, overwrite: bool) -> Manifest | None:
    """The manifest if this work is already finished; otherwise claims the folder and returns None."""
    manifest = output.manifest()
    if manifest is not None:
        found: str | None = manifest.key
    else:
        found = output.read_bytes(CLAIM).decode() if output.exists(CLAIM) else None
    if found == output.key:
        return manifest
    if found is not None and overwrite:
        output.delete_folder("")
    elif found is not None:
        raise HeadwaterError(
            "this folder holds the result of other inputs or settings, or of an earlier version",
            where=output.location,
            fix="pass another --output, or --overwrite",
        )
    elif list_files(output.location):
        raise HeadwaterError(
            "this folder holds other files", where=output.location, fix="pass another --output"
        )
    output.write_bytes(CLAIM, output.key.encode())
    return None
