"""Every query of every board runs on a real Prometheus, over a day of every series in the tables, and answers."""

import math
import subprocess
import time
from collections.abc import Iterator
from itertools import product

import pytest

from telemetry.metrics import METRICS, Metric
from telemetry.pipeline_metrics import PIPELINE_METRICS
from tests.dashboards.boards import Target, interpolated, targets
from tests.prometheus_server import PrometheusServer, installed

STEP = 60
HOURS = 25
VALUES = {"error_type": ("", "timeout"), "decision": ("approve", "reject")}


def label_sets(metric: Metric) -> list[str]:
    """Returns a metric's label sets in exposition syntax, without braces."""
    values = [VALUES.get(label, ("a", "b")) for label in metric.labels]
    return [
        ",".join(f'{k}="{v}"' for k, v in (("job", "agent-runtime"), *zip(metric.labels, row, strict=True)))
        for row in product(*values)
    ]


def lines(metric: Metric, start: int, end: int) -> Iterator[str]:
    """Yields one family as OpenMetrics: counters that grow by one a step, gauges at a plausible value."""
    yield f"# TYPE {metric.family} {metric.type}"
    for labels in label_sets(metric):
        for step, now in enumerate(range(start, end, STEP), 1):
            if metric.type == "counter":
                yield f"{metric.name}{{{labels}}} {step} {now}"
            elif metric.type == "gauge":
                yield f"{metric.name}{{{labels}}} {now - 60 if 'timestamp' in metric.name else 1} {now}"
    if metric.type == "histogram":
        bounds = [*(str(float(bound)) for bound in metric.buckets), "+Inf"]
        for labels in label_sets(metric):
            for step, now in enumerate(range(start, end, STEP), 1):
                for index, bound in enumerate(bounds, 1):
                    yield f'{metric.name}_bucket{{{labels},le="{bound}"}} {step * index} {now}'
                yield f"{metric.name}_count{{{labels}}} {step * len(bounds)} {now}"
                yield f"{metric.name}_sum{{{labels}}} {step * len(bounds)} {now}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """Yields a Prometheus that stands on blocks made of the tables."""
    promtool = installed("promtool")
    home = tmp_path_factory.mktemp("prometheus")
    end = int(time.time()) // STEP * STEP
    with (home / "day.om").open("w") as day:
        for metric in (*METRICS, *PIPELINE_METRICS):
            day.writelines(f"{line}\n" for line in lines(metric, end - HOURS * 3600, end))
        day.write("# EOF\n")
    build = [promtool, "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=48h"]
    subprocess.run([*build, str(home / "day.om"), str(home / "prometheus-data")], check=True, capture_output=True)
    with PrometheusServer([], home) as running:
        yield running


@pytest.mark.parametrize("target", list(targets()), ids=lambda t: f"{t.panel['id']} {t.expr[:40]}")
def test_query_returns_data(server: PrometheusServer, target: Target) -> None:
    """No error, and at least one finite value."""
    at = int(time.time()) // STEP * STEP - STEP
    answer = server.get("/api/v1/query", query=interpolated(target.expr), time=str(at))
    assert any(math.isfinite(float(series["value"][1])) for series in answer["result"])
