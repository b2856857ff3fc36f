"""Prometheus metrics of the endpoint: requests, latency, tokens, citations, requests in progress."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Metrics of one ingress replica.

    `replica`: label added to every sample if there are several replicas. They share one address, so
    Prometheus needs the label to tell their counters apart.
    """

    def __init__(self, replica: str = "") -> None:
        self._registry = _NamedRegistry(replica) if replica else CollectorRegistry()
        self.requests = Counter(
            "headwater_requests", "Requests answered", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "headwater_request_seconds",
            "Time from a request to its last byte",
            ["route"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self.first_token_seconds = Histogram(
            "headwater_first_token_seconds",
            "Time from a chat request to the first text of its answer",
            buckets=BUCKETS,
            registry=self._registry,
        )
        self.tokens = Counter(
            "headwater_tokens", "Tokens read and generated", ["kind", "model"], registry=self._registry
        )
        self.answers = Counter(
            "headwater_model_answers", "Answers begun, by model", ["model"], registry=self._registry
        )
        self.citations = Counter("headwater_citations", "Citations given", registry=self._registry)
        self.web_pages = Counter(
            "headwater_web_pages",
            "Pages of the live web, and searches that failed, by outcome",
            ["outcome"],
            registry=self._registry,
        )
        self.resumed = Counter(
            "headwater_resumed",
            "Requests given to another replica after theirs was lost",
            registry=self._registry,
        )
        self.in_progress = Gauge(
            "headwater_requests_in_progress",
            "Chat requests waiting or being answered",
            registry=self._registry,
        )

    def render(self) -> bytes:
        return generate_latest(self._registry)


class _NamedRegistry(CollectorRegistry):
    """Adds the label `replica` to every sample."""

    def __init__(self, replica: str) -> None:
        super().__init__()
        self._replica = replica

    def collect(self) -> Iterator[Metric]:
        for family in super().collect():
            family.samples = [
                sample._replace(labels={**sample.labels, "replica": self._replica})
                for sample in family.samples
            ]
            yield family
