"""Keeps documents under the listed licences, as their pages or tables name them (main_text/page.py)."""

from __future__ import annotations

import re

from headwater.cluster.runtime.stage import NonEmpty
from headwater.data_pipeline.filters.filter import FilterConfig, Measure, Measured
from headwater.data_pipeline.verdict import Rule, Scores

VERSION = re.compile(r"-\d+\.\d+$")


class LicenceConfig(FilterConfig):
    """Licences to keep. Without a list the step is skipped; the licence is recorded in any case."""

    allow: tuple[NonEmpty, ...] = ()
    """Licences to keep: `cc-by` (any version), `cc-by-4.0`, `cc0`, `pdm` (public domain mark), another name
    or URL as it stands in the column `licence`; `none` for documents that name none."""

    @property
    def wanted(self) -> bool:
        return bool(self.allow)

    def measurer(self) -> Measure:
        allowed = {name.lower() for name in self.allow}

        def measure(found: Measured) -> Scores:
            name = found.document.licence.lower() or "none"
            return {"refused": float(allowed.isdisjoint((name, VERSION.sub("", name))))}

        return measure

    def rules(self) -> list[Rule]:
        return [Rule("refused", "other_licence")]
