"""The pipeline's own health: what the bus, the store, the projections, the outbox and the door know about themselves.

Unlike the fold's metrics these count what this process did, and begin at zero with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Protocol

from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.writer import COMMIT_BUCKETS, GROUP_BUCKETS
from telemetry.families import CounterSeries, Family, HistogramSeries
from telemetry.metrics import Metric, table
from telemetry.outbox import EXPORT_BUCKETS, ExportFigures


class Follower(Protocol):
    """Whatever follows the store with a cursor."""

    recorded_ns: int

    @property
    def lag_events(self) -> int:
        """How many committed events it has yet to fold."""


class DoorFigures:
    """What came through the HTTP door: the API counts, this exposes."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.events: dict[str, int] = {"accepted": 0, "duplicate": 0, "rejected": 0}
        self.rejected: dict[str, int] = {}

    def answered(self, code: int) -> None:
        """An ingest request was answered with this HTTP status."""
        key = str(code)
        self.requests[key] = self.requests.get(key, 0) + 1

    def took(self, accepted: int, duplicates: int) -> None:
        """Events were committed, or were known already."""
        self.events["accepted"] += accepted
        self.events["duplicate"] += duplicates

    def refused(self, reason: str, count: int = 1) -> None:
        """Events were refused for one of a few reasons."""
        self.events["rejected"] += count
        self.rejected[reason] = self.rejected.get(reason, 0) + count


PIPELINE_METRICS: tuple[Metric, ...] = table(
    Metric(
        "agent_runtime_ingest_requests_total",
        "counter",
        "Requests to POST /events, by HTTP status.",
        ("code",),
        source="the door",
    ),
    Metric(
        "agent_runtime_ingest_events_total",
        "counter",
        "Events that came over HTTP: accepted, duplicate or rejected.",
        ("outcome",),
        source="the door",
    ),
    Metric(
        "agent_runtime_ingest_rejected_total",
        "counter",
        "Events refused at the door, by reason.",
        ("reason",),
        source="the door",
    ),
    Metric(
        "agent_runtime_commit_seconds",
        "histogram",
        "Time a group commit of the event store took.",
        (),
        "seconds",
        COMMIT_BUCKETS,
        source="the writer",
    ),
    Metric(
        "agent_runtime_commit_batch_events",
        "histogram",
        "Events that one group commit wrote.",
        (),
        "",
        GROUP_BUCKETS,
        source="the writer",
    ),
    Metric("agent_runtime_commit_failures_total", "counter", "Group commits that failed.", source="the writer"),
    Metric(
        "agent_runtime_projection_lag_events",
        "gauge",
        "Committed events that a projection has yet to fold.",
        ("projection",),
        source="the projections",
    ),
    Metric(
        "agent_runtime_projection_lag_seconds",
        "gauge",
        "How far behind the newest folded event of a lagging projection is; 0 when it has caught up.",
        ("projection",),
        "seconds",
        source="the projections",
    ),
    Metric(
        "agent_runtime_subscriber_queue_depth",
        "gauge",
        "Events that wait for a subscriber.",
        ("subscriber",),
        source="the bus",
    ),
    Metric(
        "agent_runtime_subscriber_handled_total",
        "counter",
        "Events a subscriber's handler took, by outcome: ok or failed.",
        ("subscriber", "outcome"),
        source="the bus",
    ),
    Metric(
        "agent_runtime_subscriber_seconds_total",
        "counter",
        "Time spent in a subscriber's handler.",
        ("subscriber",),
        "seconds",
        source="the bus",
    ),
    Metric(
        "agent_runtime_dead_letters",
        "gauge",
        "Dead letters kept, of handlers and of the span export.",
        ("queue",),
        source="the store",
    ),
    Metric("agent_runtime_spans_exported_total", "counter", "Spans that the backend took.", source="the outbox"),
    Metric("agent_runtime_spans_pending", "gauge", "Spans made that the backend has yet to take.", source="the outbox"),
    Metric(
        "agent_runtime_spans_refused_total", "counter", "Spans that the backend will never take.", source="the outbox"
    ),
    Metric(
        "agent_runtime_span_export_failures_total",
        "counter",
        "Export requests that failed, by reason.",
        ("reason",),
        source="the outbox",
    ),
    Metric(
        "agent_runtime_span_export_seconds",
        "histogram",
        "Time an export request took.",
        (),
        "seconds",
        EXPORT_BUCKETS,
        source="the outbox",
    ),
    Metric(
        "agent_runtime_store_last_position", "gauge", "Position of the newest event in the store.", source="the store"
    ),
    Metric("agent_runtime_store_bytes", "gauge", "Size of the event store on disk.", source="the store"),
)

_ROWS = {metric.name.removeprefix("agent_runtime_"): metric for metric in PIPELINE_METRICS}


def pipeline_families(
    bus: EventBus, followers: Mapping[str, Follower], export: ExportFigures | None, door: DoorFigures
) -> list[Family]:
    """The present figures, in the order of ``PIPELINE_METRICS``. Reads the store, so call it off the event loop."""
    commits = bus.writer.figures
    export = export or ExportFigures()
    by_name: dict[str, list[int]] = {}
    for subscription in bus.subscriptions:
        figures = by_name.setdefault(subscription.name, [0, 0, 0, 0])
        figures[0] += len(subscription.queue)
        figures[1] += subscription.handled
        figures[2] += subscription.failed
        figures[3] += subscription.seconds_ns
    now_ns = time.time_ns()
    lags = {name: follower.lag_events for name, follower in followers.items()}
    seconds = {
        name: max(0, now_ns - followers[name].recorded_ns) / 1e9 if lag and followers[name].recorded_ns else 0.0
        for name, lag in lags.items()
    }
    handled = [((name, "ok"), figures[1]) for name, figures in by_name.items()]
    handled += [((name, "failed"), figures[2]) for name, figures in by_name.items()]
    letters = {"handlers": 0, "spans": 0} | bus.store.count_dead_letters()
    return [
        _by_label("ingest_requests_total", door.requests),
        _by_label("ingest_events_total", door.events),
        _by_label("ingest_rejected_total", door.rejected),
        _histogram("commit_seconds", commits.seconds, commits.seconds_sum),
        _histogram("commit_batch_events", commits.sizes, commits.sizes_sum),
        _single("commit_failures_total", commits.failures),
        _by_label("projection_lag_events", lags),
        _by_label("projection_lag_seconds", seconds),
        _by_label("subscriber_queue_depth", {name: figures[0] for name, figures in by_name.items()}),
        _family("subscriber_handled_total", handled),
        _by_label("subscriber_seconds_total", {name: figures[3] / 1e9 for name, figures in by_name.items()}),
        _by_label("dead_letters", letters),
        _single("spans_exported_total", export.exported),
        _single("spans_pending", export.pending),
        _single("spans_refused_total", export.refused),
        _by_label("span_export_failures_total", export.failures),
        _histogram("span_export_seconds", export.seconds, export.seconds_sum),
        _single("store_last_position", bus.store.last_position()),
        _single("store_bytes", bus.store.size_bytes()),
    ]


def _family(name: str, values: Iterable[tuple[tuple[str, ...], float]]) -> Family:
    return Family(_ROWS[name], [CounterSeries(labels, value) for labels, value in values])


def _by_label(name: str, values: Mapping[str, float]) -> Family:
    return _family(name, [((label,), value) for label, value in list(values.items())])


def _single(name: str, value: float) -> Family:
    return _family(name, [((), value)])


def _histogram(name: str, counts: list[int], total: float) -> Family:
    return Family(_ROWS[name], [HistogramSeries((), list(counts), total, [None] * len(counts))])
