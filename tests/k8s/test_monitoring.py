"""The dashboard queries existing metrics, and Prometheus can scrape them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import ray.dashboard.modules.metrics.dashboards as ray_dashboards

from headwater.serving.api.metrics import Metrics
from tests.k8s.conftest import ROOT, Manifest, built

FILE = ROOT / "k8s" / "components" / "monitoring" / "dashboard.json"
METRIC = re.compile(r"\b((?:headwater|ray)_[a-z0-9_]+)\{")


@pytest.fixture(scope="module")
def queries() -> list[str]:
    panels = json.loads(FILE.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_dashboard_queries_use_metrics_that_the_endpoint_exports(queries: list[str]) -> None:
    metrics = Metrics()
    metrics.requests.labels("chat", 200).inc()
    metrics.seconds.labels("chat").observe(1)
    metrics.first_token_seconds.observe(1)
    metrics.tokens.labels("prompt", "tiny").inc()
    given = set(re.findall(r"^(headwater_\w+)", metrics.render().decode(), re.MULTILINE))
    asked = {name for query in queries for name in METRIC.findall(query) if name.startswith("headwater_")}
    assert asked <= given
    assert len(asked) >= 6


def test_dashboard_queries_use_metrics_of_rays_own_dashboards(queries: list[str]) -> None:
    folder = Path(ray_dashboards.__file__).parent
    text = "".join(path.read_text() for path in folder.glob("*_panels.py"))
    given = set(re.findall(r"\b(ray_[a-z0-9_]+)\b", text))
    asked = {name for query in queries for name in METRIC.findall(query) if name.startswith("ray_")}
    assert asked <= given
    assert len(asked) >= 12


def test_every_query_follows_the_chosen_run_and_its_brackets_close(queries: list[str]) -> None:
    for query in queries:
        assert METRIC.findall(query), query
        assert query.count('run=~"$run"') == len(METRIC.findall(query))
        for opening, closing in ("()", "{}", "[]"):
            assert query.count(opening) == query.count(closing)


def test_panels_have_titles_units_explanations_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    panels = json.loads(FILE.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"]


def _of_kind(manifests: tuple[Manifest, ...], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def test_grafana_finds_the_dashboard_by_its_label(kubectl: Path) -> None:
    (dashboard,) = (
        m for m in _of_kind(built("gpu-64"), "ConfigMap") if m["metadata"]["name"] == "headwater-dashboard"
    )
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["headwater.json"])["title"] == "Headwater"


def test_prometheus_may_reach_the_ports_it_scrapes(kubectl: Path) -> None:
    manifests = built("gpu-64")
    (cluster,) = _of_kind(manifests, "RayCluster")
    ports = {
        port["name"]: port["containerPort"]
        for group in cluster["spec"]["workerGroupSpecs"]
        for port in group["template"]["spec"]["containers"][0]["ports"]
    }
    read = {
        ports[endpoint["port"]]
        for monitor in _of_kind(manifests, "PodMonitor")
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
    }
    (policy,) = (
        m for m in _of_kind(manifests, "NetworkPolicy") if m["metadata"]["name"] == "prometheus-to-ray"
    )
    (rule,) = policy["spec"]["ingress"]
    assert {entry["port"] for entry in rule["ports"]} == read == {8080, 8000}
