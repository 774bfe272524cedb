"""What a real Prometheus makes of our exposition."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from prometheus_client import CollectorRegistry, Counter

from telemetry.exposition import Renderer
from telemetry.families import CounterSeries, Exemplar, Family, HistogramSeries
from telemetry.metrics import METRICS
from tests.prometheus_server import PrometheusServer

NASTY = '"quoted" \\back\\ new\nline %s {漢字} 😀'
NOW = 1_793_600_000.0
ROWS = {metric.name: metric for metric in METRICS}
EVENTS = ROWS["agent_runtime_events_total"]
DURATION = ROWS["gen_ai_execute_tool_duration_seconds"]
PENDING = ROWS["agent_runtime_hitl_pending"]
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass
class Target:
    """A program under observation: `/metrics` answers with the snapshot as it is now."""

    snapshot: list[Family]
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    renderer: Renderer = field(default_factory=Renderer)
    address: str = ""
    accepted: list[str | None] = field(default_factory=list)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serves on a free loopback port while the `with` block lasts."""
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                target.accepted.append(self.headers["Accept"])
                body, content_type = target.renderer.render_all(
                    target.snapshot, [target.registry], self.headers["Accept"]
                )
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.address = f"127.0.0.1:{server.server_port}"
            Thread(target=server.serve_forever, daemon=True).start()
            yield
            server.shutdown()


def snapshot(events: int) -> list[Family]:
    """Returns a snapshot in which a tool ran six times, once for long; all times are NOW."""
    counts = [0] * (len(DURATION.buckets) + 1)
    exemplars: list[Exemplar | None] = [None] * len(counts)
    counts[0], counts[5], counts[-1] = 3, 2, 1
    exemplars[5] = Exemplar(0.25, TRACE_ID, SPAN_ID, NOW)
    exemplars[-1] = Exemplar(100.5, TRACE_ID[::-1], SPAN_ID[::-1], NOW + 1)
    return [
        Family(EVENTS, [CounterSeries(("agent_switched",), events), CounterSeries((NASTY,), 2**53)]),
        Family(DURATION, [HistogramSeries(("search", ""), counts, 101.25, exemplars)]),
        Family(PENDING, [CounterSeries(("search",), 0)]),
    ]


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """Returns a target that serves the first snapshot."""
    target = Target(snapshot(events=7))
    Counter("agent_runtime_ingest_duplicates", "Duplicates.", registry=target.registry).inc(4)
    with target.serving():
        yield target


@pytest.fixture(scope="module")
def prometheus(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """Returns a Prometheus that scraped the target."""
    with PrometheusServer([target.address], tmp_path_factory.mktemp("prometheus")) as server:
        server.wait_until_scraped()
        yield server


def test_openmetrics_is_negotiated(prometheus: PrometheusServer, target: Target) -> None:
    """Prometheus asks for OpenMetrics, gets it, and is content with the content type and all lines."""
    assert "application/openmetrics-text" in (target.accepted[-1] or "")
    assert prometheus.value("up") == 1.0
    assert prometheus.value("scrape_samples_scraped") == 2 + (len(DURATION.buckets) + 3) + 1 + 1


def test_values(prometheus: PrometheusServer) -> None:
    """PromQL answers with the numbers of the snapshot and of the other registry."""
    expected = {
        'agent_runtime_events_total{event_type="agent_switched"}': 7.0,
        'agent_runtime_events_total{event_type!="agent_switched"}': float(2**53),
        'gen_ai_execute_tool_duration_seconds_bucket{le="0.01"}': 3.0,
        'gen_ai_execute_tool_duration_seconds_bucket{le="81.92"}': 5.0,
        'gen_ai_execute_tool_duration_seconds_bucket{le="+Inf"}': 6.0,
        "gen_ai_execute_tool_duration_seconds_count": 6.0,
        "gen_ai_execute_tool_duration_seconds_sum": 101.25,
        "agent_runtime_hitl_pending": 0.0,
        "agent_runtime_ingest_duplicates_total": 4.0,
        "histogram_quantile(0.25, gen_ai_execute_tool_duration_seconds_bucket)": 0.005,
    }
    assert {expression: prometheus.value(expression) for expression in expected} == expected


def test_nasty_label_arrives_as_it_was(prometheus: PrometheusServer) -> None:
    """Quotes, backslashes, line ends and other alphabets in a label value reach Prometheus unchanged."""
    types = {dict(labels)["event_type"] for labels in prometheus.query("agent_runtime_events_total")}
    assert types == {"agent_switched", NASTY}


def test_exemplars(prometheus: PrometheusServer) -> None:
    """`query_exemplars` gives the trace and span of each bucket's exemplar, with its value and time."""
    found = prometheus.query_exemplars("gen_ai_execute_tool_duration_seconds_bucket", NOW - 60, NOW + 60)
    expected = [(TRACE_ID, SPAN_ID, 0.25, NOW), (TRACE_ID[::-1], SPAN_ID[::-1], 100.5, NOW + 1)]
    shown = [
        (one["labels"]["trace_id"], one["labels"]["span_id"], float(one["value"]), one["timestamp"]) for one in found
    ]
    assert sorted(shown) == sorted(expected)


def test_metadata(prometheus: PrometheusServer) -> None:
    """Type, help and unit reach Prometheus."""
    assert prometheus.get("/api/v1/metadata", metric=DURATION.name) == {
        DURATION.name: [{"type": "histogram", "help": DURATION.help, "unit": "seconds"}]
    }


def test_a_later_scrape_sees_later_numbers(prometheus: PrometheusServer, target: Target) -> None:
    """After `wait_until_scraped` a query answers with what the target shows now."""
    seen = []
    for events in (9, 7):  # and back to what the other tests expect
        target.snapshot = snapshot(events)
        prometheus.wait_until_scraped()
        seen.append(prometheus.value('agent_runtime_events_total{event_type="agent_switched"}'))
    assert seen == [9.0, 7.0]
