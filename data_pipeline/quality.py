"""Trains a quality classifier from files of good and bad texts.

Texts are read as in `clean`: the same file formats, HTML extraction and normalisation.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.filesystem import list_files
from headwater.cluster.versions import installed
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.filters.classifiers import linear
from headwater.data_pipeline.filters.classifiers.linear import MODEL, WEIGHTS, ModelCard
from headwater.data_pipeline.filters.classifiers.training import Examples, Report, TrainSettings, train
from headwater.data_pipeline.sources import read_source
from headwater.data_pipeline.sources.guess import sources_of
from headwater.data_pipeline.sources.items import Unread, UnreadableFile
from headwater.data_pipeline.sources.listing import input_files
from headwater.data_pipeline.sources.spec import Columns
from headwater.data_pipeline.text.main_text.extract import ExtractConfig, Extractor
from headwater.data_pipeline.text.normalise import normalise
from headwater.data_pipeline.verdict import Rejection

VERSIONS = ("headwater", "numpy", "numba")
REPORTED = 500
"""Texts between two progress reports."""


@dataclass(frozen=True)
class QualityJob:
    good: tuple[str, ...]
    """Files, folders, globs, URLs or s3:// names."""
    bad: tuple[str, ...]
    output: str
    """Folder of the model (a path or s3://)."""
    columns: Columns = field(default_factory=Columns)
    """Columns of JSONL and Parquet inputs."""
    settings: TrainSettings = field(default_factory=TrainSettings)


def check_output(location: str, *, overwrite: bool) -> None:
    """Raise HeadwaterError if the folder holds other files, or a model without `overwrite`."""
    names = {info.base_name for info in list_files(location)}
    if names - {MODEL, WEIGHTS}:
        raise HeadwaterError("this folder holds other files", where=location, fix="pass another --output")
    if names and not overwrite:
        raise HeadwaterError(
            "this folder holds a model", where=location, fix="pass --overwrite to replace it"
        )


def train_model(job: QualityJob, reading: Report, training: Callable[[int], Report]) -> ModelCard:
    """Read the texts, train and write the model. `reading` receives the number of texts read; `training`
    receives the total of text visits and returns the progress callback. Writes nothing on failure."""
    with tempfile.TemporaryDirectory(prefix="headwater-") as folder:
        examples = Examples(Path(folder), job.settings)
        counts: dict[str, int] = {}
        unread = collections.Counter[str]()
        for kind, inputs in (("good", job.good), ("bad", job.bad)):
            before = sum(counts.values())
            texts = _told(read_texts(inputs, job.columns, unread), before, f"{kind} texts", reading)
            counts[kind] = examples.add(texts, good=kind == "good")
            if not counts[kind]:
                most = ", ".join(f"{reason} {number:,}" for reason, number in unread.most_common(3))
                raise HeadwaterError(
                    f"no {kind} text could be read" + (f": {most}" if most else ""),
                    where=" ".join(inputs),
                    fix="check --text-column",
                )
        weights, results = train(examples.table(), job.settings, training)
    output, data = Artifact(job.output), linear.to_bytes(weights)
    card = ModelCard(
        buckets=len(weights),
        weights_sha256=hashlib.sha256(data).hexdigest(),
        training={name: {"inputs": list(getattr(job, name)), "texts": counts[name]} for name in counts}
        | {"unread": dict(sorted(unread.items())), "settings": asdict(job.settings)},
        versions=installed(VERSIONS),
        **results,
    )
    output.write_bytes(WEIGHTS, data)
    output.write_json(MODEL, card.model_dump())
    return card


def read_texts(inputs: tuple[str, ...], columns: Columns, unread: collections.Counter[str]) -> Iterator[str]:
    """Texts of all files. Unreadable items are counted by reason. Raises HeadwaterError for a file that
    cannot be opened or is truncated."""
    with contextlib.closing(Extractor(ExtractConfig())) as extractor:
        for source in sources_of(inputs, columns):
            for file in input_files(source, source.kind):
                try:
                    for item in read_source(source, file.path):
                        text = _text(item, extractor)
                        if isinstance(text, str):
                            yield normalise(text)
                        else:
                            unread[text.reason] += 1
                except UnreadableFile as error:
                    raise HeadwaterError(
                        f"{error.reason.replace('_', ' ')}: {error.detail}",
                        where=" ".join(filter(None, (file.path, error.position))),
                    ) from error


def _text(item: Document | Unread, extractor: Extractor) -> str | Unread | Rejection:
    """The text of a document, extracted from HTML if necessary, or the reason why it has none."""
    if isinstance(item, Unread) or item.text or item.html is None:
        return item.text if isinstance(item, Document) else item
    found = extractor(item.html, item.url)
    return found if isinstance(found, Rejection) else found[1]


def _told(texts: Iterator[str], before: int, what: str, reading: Report) -> Iterator[str]:
    for number, text in enumerate(texts, start=1):
        yield text
        if number % REPORTED == 0:
            reading(before + number, what)
