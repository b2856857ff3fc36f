"""Which models the endpoint has: the settings' list, and what was changed while it runs.

The list is one JSON file in the store, once it has been changed; every replica looks at it. A request is told
with the files that answer it (`Served`), so that it ends with the model that it began with.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwater.cluster.errors import HeadwaterError
from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.change import change_json
from headwater.cluster.storage.filesystem import is_remote
from headwater.cluster.storage.hub import SCHEME
from headwater.cluster.storage.store import Store
from headwater.llm.model.adapter_files import is_adapter, linear_shapes, read_adapter
from headwater.llm.model.files.source import find_model, listed
from headwater.llm.stages.models import FOLDER, MODELS

if TYPE_CHECKING:
    from headwater.serving.config import AppConfig, ServedModel

log = logging.getLogger("headwater")

CHANGES = "served"
"""Folder of the store with the lists that were changed while an endpoint runs."""
PROMOTED = "promoted"
"""Folder of the store with the promotions of each recipe, and what a path begins with that follows them."""
ADAPTER = "adapter"
"""Folder beside a merged model with what its LoRA training learnt."""
RECIPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Of a recipe's name."""
KEY = re.compile(rf"({'|'.join(MODELS)})/[0-9a-f]{{16}}(/{ADAPTER})?")
"""Of a model in the store."""
LOOK_SECONDS, LOOK_SECONDS_REMOTE = 1.0, 5.0
"""Time between two looks at the list, in a store on a disk and in S3."""


@dataclass(frozen=True)
class Served:
    """The files of one model. Two that differ in a file are two models, also under one name."""

    name: str
    folder: str
    """A Hugging Face folder, or that of an adapter."""
    base: Served | None = None
    """Of an adapter."""
    mark: str = ""
    """Of names, sizes and times of the files; empty for the settings' own model, which may lie on each node's
    disk with times of its own."""

    def check_same(self) -> None:
        """Raises HeadwaterError if the files are no longer those."""
        if self.mark and self.mark != mark_of(self.folder):
            raise HeadwaterError(
                f"the files of the model {self.name} have changed since it was added",
                where=self.folder,
                fix="add it again under the same name",
            )


def mark_of(folder: str) -> str:
    """Of names, sizes and times of a folder's files. Raises HeadwaterError if there is none."""
    told = json.dumps(listed(folder).fingerprint(), sort_keys=True)
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


class ModelList:
    """The models of an endpoint as they are now. The first one has the settings' `model_name`: their `model`,
    or what was put in its place."""

    def __init__(self, config: AppConfig, *, changed: bool = True) -> None:
        """`changed`: with what was changed since the endpoint was started; else the settings' list. Raises
        HeadwaterError if a model is not there."""
        if config.model_name in config.models:
            raise HeadwaterError(
                f"`{config.model_name}` is the endpoint's first model", where="serve.models", fix="rename one"
            )
        self._config = config
        self._store = Store(config.store) if config.store else None
        own = hashlib.blake2b(config.model_dump_json().encode(), digest_size=8).hexdigest()
        self._file = f"{own}.json"
        self._entries = self._read() if changed else self._initial()
        self.now = self._resolved(self._entries)
        """By name, the first one first."""
        self._keys: dict[str, str] = {}
        """Fingerprint → key of every model that was ever asked for."""

    @property
    def first(self) -> Served:
        return self.now[self._config.model_name]

    def fingerprint(self, served: Served) -> str:
        """What responses call the model that wrote them: its key in the store, else a digest of where its
        files are, and of their mark."""
        key = self._config.key_of(served.folder)
        place = f"{served.folder}\n{served.mark}".encode()
        told = f"fp_{hashlib.blake2b(place, digest_size=8).hexdigest()}" if key == served.folder else key
        self._keys[told] = key
        return told

    def key_of(self, fingerprint: str) -> str:
        """The key, or the folder, of the model with a fingerprint. Raises HeadwaterError for one that neither
        was served by this replica nor is in the store."""
        for each in self.now.values():
            self.fingerprint(each)
        if fingerprint not in self._keys:
            if not KEY.fullmatch(fingerprint):
                raise HeadwaterError(
                    "this endpoint has served no such model",
                    where=fingerprint,
                    fix="send the `system_fingerprint` of the response with the answer",
                )
            location_of(fingerprint, self._config.store)
        return self._keys.get(fingerprint, fingerprint)

    def check_same(self, served: Served) -> None:
        """As the model's own, and raises HeadwaterError for the settings' model if other files have taken its
        place in its folder."""
        served.check_same()
        first = self.first
        if not served.mark and first.mark and served.folder == first.folder:
            raise HeadwaterError(
                f"the files of the model {served.name} were replaced", where=served.folder, fix="ask again"
            )

    @property
    def pause(self) -> float:
        """Seconds between two looks."""
        return LOOK_SECONDS_REMOTE if is_remote(self._config.store) else LOOK_SECONDS

    def look(self) -> None:
        """Take what has changed. A list that cannot be read, or is wrong, leaves what there is."""
        try:
            entries = self._read()
            follows = any(each["path"].startswith(f"{PROMOTED}/") for each in entries.values())
            if follows or entries != self._entries:
                now = self._resolved(entries)
                for each in set(now.values()).difference(self.now.values()):
                    self._check(each)
                self.now, self._entries = now, entries
        except (HeadwaterError, OSError) as error:
            log.error("the models stay as they were: %s", error)

    def would_be(self, name: str, model: ServedModel) -> tuple[Served, dict[str, Served]]:
        """A model under a name, and the list with it. Raises HeadwaterError for what cannot be served, and if
        adapters of the model in its place do not fit it."""
        marked = self._entries | {name: {**model.model_dump(), "mark": ""}}
        served = self._resolved(marked)
        for each in served.values():
            if each.name == name or (each.base is not None and each.base.name == name):
                self._check(each)
        return served[name], served

    def _check(self, served: Served) -> None:
        """Raises HeadwaterError for what cannot be served with the endpoint's backend."""
        check_model(served)
        if served.base is None:
            self._config.choice(served.folder)

    def put(self, name: str, model: ServedModel, served: Served) -> None:
        """Add or replace a model, for all replicas."""
        entry = {**model.model_dump(), "mark": "" if model.path.startswith(f"{PROMOTED}/") else served.mark}
        self._change(lambda entries: entries | {name: entry})

    def remove(self, name: str) -> None:
        """Raises HeadwaterError if adapters need it."""
        if needing := [each.name for each in self.now.values() if each.base and each.base.name == name]:
            raise HeadwaterError(
                f"it is the base of {', '.join(needing)}", where=name, fix="remove these adapters first"
            )
        self._change(lambda entries: {other: each for other, each in entries.items() if other != name})

    def forget_changes(self) -> None:
        """What starts from now on begins with the settings' list."""
        if self._store is not None and self._store.folder(CHANGES).exists(self._file):
            self._store.folder(CHANGES).delete(self._file)

    def _change(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        assert self._store is not None, "the route has asked for one"
        initial = self._initial()

        def changed(content: Any) -> Any:
            return {"models": change(dict(content["models"]) if content else initial)}

        change_json(self._store.folder(CHANGES), self._file, changed)
        self.look()

    def _initial(self) -> dict[str, Any]:
        return {name: {**each.model_dump(), "mark": ""} for name, each in self._config.models.items()}

    def _read(self) -> dict[str, Any]:
        folder = self._store.folder(CHANGES) if self._store is not None else None
        if folder is None or not folder.exists(self._file):
            return self._initial()
        return dict(folder.read_json(self._file)["models"])

    def _resolved(self, entries: Mapping[str, Any]) -> dict[str, Served]:
        """Whole models first: adapters name them."""
        first = self._config.model_name
        found = {} if first in entries else {first: Served(first, self._config.model)}
        places = {name: location_of(each["path"], self._config.store) for name, each in entries.items()}
        adapters = {name for name, place in places.items() if is_adapter(place)}
        if first in adapters:
            raise HeadwaterError(
                "the endpoint's first model is a whole one, and this is an adapter",
                where=places[first],
                fix="add it under another name, or merge it into its base",
            )
        for name in sorted(entries, key=lambda name: name in adapters):
            given = entries[name]
            base = None
            if name in adapters:
                base = found.get(given["base"] or first)
                if base is None or base.base is not None:
                    whole = [own for own, each in found.items() if each.base is None]
                    raise HeadwaterError(
                        f"its base `{given['base']}` is no whole model of this endpoint",
                        where=f"serve.models.{name}",
                        fix=f"name one of {', '.join(whole)}",
                    )
            elif given["base"]:
                raise HeadwaterError(
                    "it has a `base` and is no adapter", where=f"serve.models.{name}", fix="leave `base` out"
                )
            found[name] = Served(name, places[name], base, given["mark"] or mark_of(places[name]))
        return {name: found[name] for name in dict.fromkeys([first, *entries])}


def location_of(path: str, store: str) -> str:
    """Where a model lies: a path as it is, or what `STAGE/KEY`, `STAGE/KEY/adapter` and `promoted/RECIPE`
    name in the store. Raises HeadwaterError if that is not there."""
    if path.startswith(SCHEME):
        raise HeadwaterError("the hub is not served from", where=path, fix="download the model: `base.model`")
    kind, _, rest = path.partition("/")
    if not store or (kind not in MODELS and kind != PROMOTED) or not rest:
        return path
    if kind == PROMOTED:
        if not RECIPE.fullmatch(rest):
            raise HeadwaterError("not of the form promoted/RECIPE", where=path, fix="name a recipe")
        folder, name = Store(store).folder(PROMOTED), f"{rest}.json"
        if not folder.exists(name):
            raise HeadwaterError(f"nothing was promoted for {rest}", where=path, fix="headwater promote")
        path = str(folder.read_json(name)["promotions"][-1]["model"])
        kind, _, rest = path.partition("/")
    key, _, part = rest.partition("/")
    model = Store(store).find(kind, key).path(FOLDER)
    return f"{model}/{ADAPTER}" if part == ADAPTER else model


def check_model(served: Served) -> None:
    """Raises HeadwaterError, naming the model, for files that are no model, and an adapter that does not fit
    its base."""
    try:
        if served.base is None and find_model(served.folder).gguf:
            raise HeadwaterError("it is a GGUF file", where=served.folder, fix="import it: `base.model`")
        if served.base is not None:
            shapes = linear_shapes(served.base.folder)
            read_adapter(served.folder).check_fits(served.base.name, shapes)
    except HeadwaterError as error:
        raise HeadwaterError(f"the model {served.name} is refused: {error}") from error


def record_of(served: Served) -> Artifact | None:
    """The folder with the log-probabilities that a model must have (`inference.parity`); None without one.

    An adapter's own, or of the merged model that Headwater has exported beside it.
    """
    from headwater.llm.model.files.export import PARITY

    folders = [served.folder]
    if served.base is not None:
        folders.append(served.folder.rstrip("/").rpartition("/")[0])
    return next((Artifact(each) for each in folders if Artifact(each).exists(PARITY)), None)
