"""Filters of a user's own file: `filters: - custom: my_filters.py:Shouting` in the section `clean`.

The class is a `FilterConfig`, as those of this folder. The file's text is part of the settings: it is in the
artifact's key and manifest, and travels to the workers, where the file need not be.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from headwater.cluster.errors import HeadwaterError, first_line
from headwater.cluster.runtime.plugins import Plugin, is_plugin, read_plugin
from headwater.cluster.runtime.stage import StageConfig
from headwater.data_pipeline.filters.filter import FilterConfig, Measure, Measured
from headwater.data_pipeline.verdict import Refused, Rejection, Scores

SETTING = "clean.filters"


class CustomFilter(StageConfig):
    """A filter of your own. The step has the name of the class."""

    custom: str = Field(pattern=r"\.py:[A-Za-z_]\w*$")
    """`FILE.py:CLASS`; the class is a `FilterConfig`."""
    settings: dict[str, Any] = {}
    """Values of the class's settings."""
    source: str = ""
    """Text of the file. It is filled in when the recipe is read."""

    @model_validator(mode="before")
    @classmethod
    def _with_source(cls, values: Any) -> Any:
        name = values.get("custom") if isinstance(values, Mapping) and not values.get("source") else None
        if isinstance(name, str) and is_plugin(name):
            return {**values, "source": read_plugin(name, SETTING).source}
        return values

    @property
    def name(self) -> str:
        return self.custom.rpartition(":")[2]

    @property
    def filter(self) -> FilterConfig:
        """The settings of the class. Raises HeadwaterError if the file cannot be run, its class is no
        FilterConfig, or does not take the settings."""
        return _filter(self.custom, self.source, json.dumps(self.settings, sort_keys=True, default=str))

    def measurer(self) -> Measure:
        """As the filter's own, with errors that name the filter and the document."""
        measure = self.filter.measurer()

        def named(found: Measured) -> Scores | Rejection:
            try:
                return measure(found)
            except (Refused, HeadwaterError):
                raise
            except Exception as error:
                raise HeadwaterError(
                    f"the filter failed ({type(error).__name__}: {first_line(error)})",
                    where=f"{SETTING}: {self.custom}, at {found.document.source}",
                    fix="correct the filter and run again; what was read stays",
                ) from error

        return named


@functools.lru_cache(maxsize=256)
def _filter(custom: str, source: str, settings: str) -> FilterConfig:
    where = f"{SETTING}: {custom}"
    try:
        kind = Plugin(custom, source).definition()
    except Exception as error:
        raise HeadwaterError(
            f"the file failed ({type(error).__name__}: {first_line(error)})", where=where, fix="correct it"
        ) from error
    if not isinstance(kind, type) or not issubclass(kind, FilterConfig):
        raise HeadwaterError(
            "this is no filter",
            where=where,
            fix="derive the class from headwater.data_pipeline.filters.filter.FilterConfig",
        )
    try:
        return kind.model_validate(json.loads(settings))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise HeadwaterError(f"settings.{key}: {problem['msg']}", where=where) from error
