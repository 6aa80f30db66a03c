"""Rules, alerts and dashboards, held against what the service exports and what docs/operations.md says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deploy_files import DEPLOY, ROOT, parsed
from fake_front import HELLO

from service.front.telemetry.instruments import LATENCY_BUCKETS
from service.front.telemetry.metrics import Metrics

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
SAMPLES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}


def exported() -> dict[str, str]:
    """Every metric of the service with its type, as Prometheus sees it."""
    metrics = Metrics()
    metrics.worker(0).on_hello(HELLO)
    return {family.name: family.type for family in metrics.registry.collect()}


def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in parsed(path)["groups"] for rule in group["rules"]]


def panels(dashboard: Path) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(dashboard.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    """All that is asked of Prometheus."""
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for path in DASHBOARDS for panel in panels(path) for target in panel["targets"])


def test_every_metric_that_is_asked_for_is_exported_or_recorded() -> None:
    samples = {name + suffix for name, kind in exported().items() for suffix in SAMPLES[kind]}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = {name for each in expressions() for name in re.findall(r"[a-z_:]*mixformer_[a-z0-9_:]+", each)}
    assert asked - samples - recorded == set()
    assert len(asked & samples) > 20


def test_every_exported_metric_is_on_a_dashboard() -> None:
    shown = " ".join(target["expr"] for path in DASHBOARDS for panel in panels(path) for target in panel["targets"])
    shown += " ".join(rule["expr"] for rule in rules() if rule.get("record", "") in shown)
    assert [name for name in exported() if name not in shown] == []


def test_every_exported_metric_is_documented_with_its_type() -> None:
    rows = dict(re.findall(r"^\| `(mixformer_\w+)` \| (\w+) \|", OPERATIONS, re.MULTILINE))
    assert rows == {name + ("_total" if kind == "counter" else ""): kind for name, kind in exported().items()}


def test_every_alert_says_what_to_do() -> None:
    assert set(re.findall(r"^### (\w+)$", OPERATIONS, re.MULTILINE)) == {rule["alert"] for rule in rules() if "alert" in rule}


def test_every_bound_that_is_asked_for_is_one_of_the_histograms() -> None:
    bounds = {bound for each in expressions() for bound in re.findall(r'le="([^"]+)"', each)}
    assert bounds
    assert bounds <= {str(bound) for bound in LATENCY_BUCKETS}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_reads_from_the_data_source_that_is_provisioned(dashboard: Path) -> None:
    (source,) = parsed(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    used = {target["datasource"]["uid"] for panel in panels(dashboard) for target in panel["targets"]}
    assert used == {source["uid"]}
    ids = [panel["id"] for panel in panels(dashboard)]
    assert len(set(ids)) == len(ids)


def test_dashboards_are_told_apart_by_their_uid() -> None:
    assert len({json.loads(path.read_text())["uid"] for path in DASHBOARDS}) == len(DASHBOARDS) == 2


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_no_panels_lie_on_each_other(dashboard: Path) -> None:
    cells = [
        (column, line)
        for place in (panel["gridPos"] for panel in json.loads(dashboard.read_text())["panels"])
        for column in range(place["x"], place["x"] + place["w"])
        for line in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(column for column, _ in cells) < 24


def test_prometheus_scrapes_where_the_tracker_listens() -> None:
    jobs = {job["job_name"]: job for job in parsed(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]}
    assert jobs["mixformer"]["static_configs"] == [{"targets": ["tracker:9090"]}]
    assert all('job="mixformer"' in rule["expr"] for rule in rules() if "rate(" in rule["expr"])
