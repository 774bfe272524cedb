"""Every query of every board runs on a real Prometheus, over a day of every series in the tables, and answers."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import httpx
import pytest

from telemetry.metrics import METRICS, Metric
from telemetry.pipeline_metrics import PIPELINE_METRICS
from tests.dashboards.boards import Target, interpolated, targets

pytestmark = pytest.mark.skipif(
    "CI" not in os.environ and not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs Prometheus and promtool",
)

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


def free_port() -> int:
    """Returns a port of the loopback address on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """Starts a Prometheus on blocks made of the tables and yields its address."""
    home: Path = tmp_path_factory.mktemp("prometheus")
    end = int(time.time()) // STEP * STEP
    with (home / "day.om").open("w") as day:
        for metric in (*METRICS, *PIPELINE_METRICS):
            day.writelines(f"{line}\n" for line in lines(metric, end - HOURS * 3600, end))
        day.write("# EOF\n")
    build = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=48h"]
    subprocess.run([*build, str(home / "day.om"), str(home / "data")], check=True, capture_output=True)
    (home / "prometheus.yml").write_text("")
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        f"--config.file={home}/prometheus.yml",
        f"--storage.tsdb.path={home}/data",
        f"--web.listen-address={address}",
    ]
    process = subprocess.Popen(["prometheus", *arguments], stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                if httpx.get(f"http://{address}/-/ready").is_success:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("target", list(targets()), ids=lambda t: f"{t.panel['id']} {t.expr[:40]}")
def test_query_returns_data(server: str, target: Target) -> None:
    """No error, and at least one finite value."""
    at = int(time.time()) // STEP * STEP - STEP
    answer = httpx.post(f"{server}/api/v1/query", data={"query": interpolated(target.expr), "time": str(at)}).json()
    assert "success" == answer["status"], answer
    values = [float(series["value"][1]) for series in answer["data"]["result"]]
    assert [] != [value for value in values if value == value and abs(value) != float("inf")]
