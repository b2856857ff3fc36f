"""A model as OpenVINO reads it, converted once and kept.

A model of a store has its conversion there, as the artifact `openvino/KEY`; another model has it in this
machine's cache (`cluster.storage.cache`). KEY is made of the content of the model's files, the precision, the
version of OpenVINO and the code that makes the graph, so a conversion is never out of date. It has all that
the engine opens: a machine that finds one reads no weights of the model itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact, Manifest
from headwater.cluster.storage.cache import alone, cache_folder
from headwater.cluster.storage.filesystem import is_remote
from headwater.cluster.storage.store import Store
from headwater.cluster.versions import recorded_versions
from headwater.llm.inference.openvino import graph, runtime
from headwater.llm.model.files.source import CONFIG, INDEX, ModelFolder, find_model

log = logging.getLogger("headwater")

STAGE = "openvino"
FOLDER, GRAPH = "model", "graph.xml"
"""Of the artifact, and in it."""


def converted(location: str, *, int8: bool) -> Path:
    """A local folder with the graph of a Hugging Face folder, its `config.json` and its tokenizer.

    Made, and refused, as by `convert`.
    """
    return convert(location, int8=int8).local(FOLDER)


def convert(location: str, *, int8: bool) -> Artifact:
    """The conversion of a Hugging Face folder on a disk or in S3. It is made if there is none; processes of
    this machine make it once. Who starts several machines calls this first.

    Raises HeadwaterError for a folder without a model and for a model with a `graph.fault`.
    """
    model = find_model(location)
    if reason := graph.fault(model.read_json(CONFIG)):
        raise HeadwaterError(
            f"the backend openvino cannot run this model: {reason}", where=location, fix="use torch"
        )
    source, manifest = _artifact(location)
    content = {
        "files": _checksums(model, manifest),
        "precision": "int8" if int8 else "float32",
        "openvino": str(runtime().__version__),
        "graph": hashlib.sha256(Path(graph.__file__).read_bytes()).hexdigest(),
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    with alone(f"{STAGE}-{key}"):
        place = _place(source, key)
        if place.manifest() is None:
            _make(place, model, content, {source.stage: source.key} if manifest else {})
        if not is_remote(place.location):
            os.utime(place.location)  # in the cache: it is in use
        return place


def _artifact(location: str) -> tuple[Artifact, Manifest | None]:
    """The artifact of a store whose model this is, with its manifest, if it is one's."""
    whole = location.rstrip("/")
    if whole.endswith("/model") and (found := Artifact(whole.removesuffix("/model"))).exists("manifest.json"):
        manifest = found.finished()
        if found.location.endswith(f"/{manifest.stage}/{manifest.key}"):
            return Artifact(found.location, manifest.stage, manifest.key), manifest
    return Artifact(whole), None


def _checksums(model: ModelFolder, manifest: Manifest | None) -> dict[str, str]:
    """SHA-256 of each file that makes the model; a manifest has them already."""
    recorded = {each.path: each.sha256 for each in manifest.files} if manifest else {}
    names = [name for name in model.wanted() if not name.startswith(("LICENSE", "NOTICE", "README"))]
    if all(f"model/{name}" in recorded for name in names):
        return {name: recorded[f"model/{name}"] for name in names}
    folder, found = Artifact(model.location).local(), {}
    for name in names:
        with (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _place(source: Artifact, key: str) -> Artifact:
    """Where the conversion is, or is to be: beside the source in its store, else in the cache."""
    if source.stage:
        place = source.beside(STAGE, key)
        if place.manifest() is not None:
            return place
        try:
            Store(place.location.removesuffix(f"/{STAGE}/{key}")).check_writable()
            return place
        except HeadwaterError as error:
            log.warning("the converted model stays on this machine: %s", error)
    return Artifact(str(cache_folder() / f"{STAGE}-{key}"), STAGE, key)


def _make(place: Artifact, model: ModelFolder, content: dict[str, Any], inputs: dict[str, str]) -> None:
    started = time.time()
    local = Artifact(model.location).local()
    with place.create_folder(FOLDER) as folder:
        for name in model.wanted():
            if not name.endswith(".safetensors") and name != INDEX:
                model.copy(name, folder / name)
        outline = graph.outline(local, int8=content["precision"] == "int8")
        runtime().save_model(outline, folder / GRAPH, compress_to_fp16=False)
    place.finish(
        Manifest(
            stage=STAGE,
            key=place.key,
            stage_version=1,
            config={"precision": content["precision"], "openvino": content["openvino"]},
            inputs=inputs,
            fingerprint=content,
            started_at=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            seconds=round(time.time() - started, 2),
            versions=recorded_versions(),
        )
    )
    seconds = time.time() - started
    log.info("%s was converted for OpenVINO in %.1f s: %s", model.location, seconds, place.location)
