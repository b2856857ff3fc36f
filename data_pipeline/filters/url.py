"""Drops pages by URL: blocked domains and blocked words. The user supplies the lists."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from headwater.cluster.runtime.stage import NonEmpty
from headwater.data_pipeline.filters.filter import FilterConfig, Measure
from headwater.data_pipeline.filters.lists import read_list
from headwater.data_pipeline.verdict import Rejection

WORD = re.compile(r"[a-z0-9]+")


class UrlConfig(FilterConfig):
    """URL blocklists. Without lists the step is skipped."""

    domains: tuple[NonEmpty, ...] = ()
    """Domains to block, with all their subdomains."""
    domain_files: tuple[NonEmpty, ...] = ()
    """Files with one blocked domain per line (paths, `s3://`), in addition to `domains`."""
    words: tuple[NonEmpty, ...] = ()
    """Words to block. They match whole words in a URL, separated by punctuation."""
    word_files: tuple[NonEmpty, ...] = ()
    """Files with one blocked word per line (paths, `s3://`), in addition to `words`."""

    @property
    def files(self) -> tuple[str, ...]:
        return self.domain_files + self.word_files

    @property
    def wanted(self) -> bool:
        return bool(self.files or self.domains or self.words)

    def measurer(self) -> Measure:
        blocked = UrlFilter(self)
        return lambda found: blocked(found.document.url) or {}


class UrlFilter:
    """Rejects blocked URLs. Reads the lists once."""

    def __init__(self, config: UrlConfig) -> None:
        self._domains, self._words = set(config.domains), set(config.words)
        for file in config.domain_files:
            self._domains.update(read_list(file))
        for file in config.word_files:
            self._words.update(read_list(file))
        self._domains = {domain.lower().strip(".") for domain in self._domains}
        self._words = {word.lower() for word in self._words}

    def __call__(self, url: str) -> Rejection | None:
        """Documents without a URL pass."""
        lower = url.lower()
        try:
            host = urlsplit(lower).hostname or ""
        except ValueError:
            return Rejection("malformed_url")
        labels = host.strip(".").split(".")
        if any(".".join(labels[start:]) in self._domains for start in range(len(labels))):
            return Rejection("blocked_domain")
        if not self._words.isdisjoint(WORD.findall(lower)):
            return Rejection("blocked_word")
        return None
