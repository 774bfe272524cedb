"""A scrape of 10,000 series: ours beside `generate_latest` over the same values in `prometheus_client`'s metrics."""

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.openmetrics import exposition as openmetrics

from telemetry.exposition import Renderer
from telemetry.families import CounterSeries, Exemplar, Family, HistogramSeries
from telemetry.metrics import CALL_BUCKETS, Metric

BAR = 0.15
ROUNDS = 15
TOOLS = 500  # histograms of 17 series each, and 1,500 counters: 10,000 series
EVENT_TYPES = 1500
IDS = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}

DURATION = Metric(
    "gen_ai_execute_tool_duration_seconds",
    "histogram",
    "Time a tool took.",
    ("gen_ai_tool_name", "error_type"),
    "seconds",
    CALL_BUCKETS,
    source="benchmark",
)
EVENTS = Metric("agent_runtime_events_total", "counter", "Events stored.", ("event_type",), source="benchmark")


def rows() -> list[dict[str, Any]]:
    """Returns one row per format, times in µs: medians of rounds in which ours and the yardstick take turns."""
    prometheus_client.disable_created_metrics()  # a third of a counter's lines, which nobody wants
    snapshot, registry, warm = _snapshot(), _registry(), Renderer()
    return [
        _row(
            "scrape of 10,000 series, classic text",
            "generate_latest",
            lambda: warm.render(snapshot, openmetrics=False),
            lambda: prometheus_client.generate_latest(registry),
        ),
        _row(
            "scrape of 10,000 series, OpenMetrics with 7,500 exemplars",
            "openmetrics generate_latest",
            lambda: warm.render(snapshot, openmetrics=True),
            lambda: openmetrics.generate_latest(registry),
        ),
    ]


def _row(work: str, yardstick: str, ours: Callable[[], bytes], theirs: Callable[[], bytes]) -> dict[str, Any]:
    if _lines(ours()) != _lines(theirs()):
        raise AssertionError(f"{work}: the two do not show the same")
    pairs = [(_microseconds(ours), _microseconds(theirs)) for _ in range(ROUNDS)]
    ours_us, yardstick_us = (median(times) for times in zip(*pairs, strict=True))
    return {
        "work": work,
        "yardstick": yardstick,
        "ours_us": ours_us,
        "yardstick_us": yardstick_us,
        "ratio": ours_us / yardstick_us,
        "bar": BAR,
    }


def _microseconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return (perf_counter() - start) * 1e6


def _lines(exposition: bytes) -> list[bytes]:
    """Returns the samples and comments in order of text, without units and the exemplars' times, which differ."""
    lines = (line.rpartition(b" ")[0] if b" # {" in line else line for line in exposition.splitlines())
    return sorted(line for line in lines if not line.startswith(b"# UNIT"))


def _observations(tool: int) -> list[float]:
    """Returns one duration per bucket, in the middle of it, `+Inf` included."""
    return [bound * 0.75 + tool / 1e6 for bound in (*CALL_BUCKETS, CALL_BUCKETS[-1] * 2)]


def _snapshot() -> list[Family]:
    histograms = []
    for tool in range(TOOLS):
        values = _observations(tool)
        exemplars: list[Exemplar | None] = [Exemplar(value, **IDS, time=1_793_600_000.25) for value in values]
        histograms.append(HistogramSeries((f"tool-{tool}", ""), [1] * len(values), sum(values), exemplars))
    counters = [CounterSeries((f"type-{number}",), number * 1000) for number in range(EVENT_TYPES)]
    return [Family(DURATION, histograms), Family(EVENTS, counters)]


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    histogram = Histogram(DURATION.name, DURATION.help, DURATION.labels, buckets=DURATION.buckets, registry=registry)
    counter = Counter(EVENTS.name, EVENTS.help, EVENTS.labels, registry=registry)
    for tool in range(TOOLS):
        for value in _observations(tool):
            histogram.labels(f"tool-{tool}", "").observe(value, exemplar=IDS)
    for number in range(EVENT_TYPES):
        counter.labels(f"type-{number}").inc(number * 1000)
    return registry


if __name__ == "__main__":
    for row in rows():
        print(row)
