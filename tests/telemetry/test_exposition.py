from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, exposition, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.metrics_core import Metric as ClientMetric
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic
from prometheus_client.registry import Collector

from telemetry.exposition import FamiliesCollector, Renderer, choose
from telemetry.families import CounterSeries, Exemplar, Family, HistogramSeries
from telemetry.metrics import METRICS, Metric

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
PROMETHEUS_3_NATIVE = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6," + PROMETHEUS_3
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"

WAIT = Metric(
    "wait_seconds", "histogram", "A wait.", ("tool", "error_type"), "seconds", (0.5, 1.0, 30.0), source="test"
)  # fmt: skip
CALLS = Metric("calls_total", "counter", "Calls.", ("tool",), source="test")
OPEN = Metric("open", "gauge", "Open ones.", source="test")

# Strategies: families as the fold may produce them, and worse.

label_names = st.from_regex("[a-zA-Z][a-zA-Z0-9_]{0,6}", fullmatch=True).filter(
    lambda name: name not in {"le", "quantile", "job", "instance", "id"} and not name.endswith("_id")
)
label_values = st.one_of(st.text(), st.text(alphabet='%s"\\\n\r\t\0{},=# é漢😀', max_size=8))
numbers = st.one_of(
    st.integers(-10, 10**6),
    st.integers(0, 2**70),
    st.floats(width=64),
    st.sampled_from([999_999, 10**6, 999_999.5, 1e21]),
)
hex_ids = st.text("0123456789abcdef", min_size=16, max_size=32)
exemplars = st.builds(Exemplar, st.floats(width=64), hex_ids, hex_ids, st.floats(0, 2e9))
helps = st.text(alphabet='ab "\\é', max_size=10).map(lambda text: f"{text}.")


@st.composite
def families(draw: st.DrawFn, index: int) -> Family:
    """Draws a family; its index keeps it apart from the others of a snapshot."""
    kind = draw(st.sampled_from(["counter", "gauge", "histogram"]))
    labels = tuple(draw(st.lists(label_names, max_size=4, unique=True)))
    bounds = draw(st.lists(st.floats(1e-3, 1e8), min_size=1, max_size=14, unique=True)) if kind == "histogram" else []
    unit = draw(st.sampled_from(["", "seconds", "usd"]))
    name = f"m{index}{'_' + unit if unit else ''}{'_total' if kind == 'counter' else ''}"
    metric = Metric(name, kind, draw(helps), labels, unit, tuple(sorted(bounds)), source="test")
    label_sets = draw(st.lists(st.tuples(*[label_values] * len(labels)), max_size=3, unique=True))
    if kind != "histogram":
        return Family(metric, [CounterSeries(values, draw(numbers)) for values in label_sets])
    return Family(metric, [draw(histogram_series(values, len(bounds) + 1)) for values in label_sets])


@st.composite
def histogram_series(draw: st.DrawFn, labels: tuple[str, ...], size: int) -> HistogramSeries:
    """Draws counts, a sum and exemplars for so many buckets."""
    counts = draw(st.lists(st.one_of(st.integers(0, 5), st.integers(0, 2**62)), min_size=size, max_size=size))
    chosen = draw(st.lists(st.none() | exemplars, min_size=size, max_size=size))
    return HistogramSeries(labels, counts, draw(st.floats(width=64)), chosen)


@st.composite
def snapshots(draw: st.DrawFn) -> list[Family]:
    """Draws a snapshot of up to four families."""
    return [draw(families(index)) for index in range(draw(st.integers(0, 4)))]


def registry_of(snapshot: list[Family]) -> CollectorRegistry:
    """Returns a registry that shows the snapshot."""
    registry = CollectorRegistry()
    registry.register(FamiliesCollector(lambda: snapshot, [family.metric for family in snapshot]))
    return registry


def sample(tool: str = "search", calls: float = 3) -> list[Family]:
    """Returns a small snapshot with one series of each type."""
    exemplar = Exemplar(0.75, "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1_793_600_000.25)
    return [
        Family(WAIT, [HistogramSeries((tool, ""), [0, 2, 1, 1], 51.5, [None, exemplar, None, None])]),
        Family(CALLS, [CounterSeries((tool,), calls)]),
        Family(OPEN, [CounterSeries((), 0)]),
    ]


CLASSIC = """\
# HELP wait_seconds A wait.
# TYPE wait_seconds histogram
wait_seconds_bucket{error_type="",le="0.5",tool="search"} 0.0
wait_seconds_bucket{error_type="",le="1.0",tool="search"} 2.0
wait_seconds_bucket{error_type="",le="30.0",tool="search"} 3.0
wait_seconds_bucket{error_type="",le="+Inf",tool="search"} 4.0
wait_seconds_count{error_type="",tool="search"} 4.0
wait_seconds_sum{error_type="",tool="search"} 51.5
# HELP calls_total Calls.
# TYPE calls_total counter
calls_total{tool="search"} 3.0
# HELP open Open ones.
# TYPE open gauge
open 0.0
"""


class TestRenderer:
    @given(st.lists(snapshots(), max_size=3))
    @settings(max_examples=300, deadline=None)
    @example([sample('"\\\n%s %d%%'), sample("other"), sample('"\\\n%s %d%%')])
    def test_equals_prometheus_client(self, scrapes: list[list[Family]]) -> None:
        """Byte for byte what prometheus_client writes for the same families, in both formats, scrape after scrape."""
        renderer = Renderer()
        for snapshot in scrapes:
            registry = registry_of(snapshot)
            expected = (exposition.generate_latest(registry), openmetrics_exposition.generate_latest(registry))
            assert expected == (
                renderer.render(snapshot, openmetrics=False),
                renderer.render(snapshot, openmetrics=True),
            )

    def test_classic_text(self) -> None:
        """The classic text reads as Prometheus documents it: cumulative buckets, `le` as floats, no exemplars."""
        assert Renderer().render(sample(), openmetrics=False).decode() == CLASSIC

    def test_openmetrics_text(self) -> None:
        """OpenMetrics adds exemplars, units and the end mark, and names counter families without `_total`."""
        lines = Renderer().render(sample(), openmetrics=True).decode().splitlines()
        exemplar = '{span_id="b7ad6b7169203331",trace_id="0af7651916cd43dd8448eb211c80319c"} 0.75 1793600000.25'
        assert [
            "# UNIT wait_seconds seconds",
            f'wait_seconds_bucket{{error_type="",le="1.0",tool="search"}} 2.0 # {exemplar}',
            "# TYPE calls counter",
            "# EOF",
        ] == [lines[2], lines[4], lines[10], lines[-1]]

    @given(snapshots())
    @settings(deadline=None)
    def test_labels_survive_reading(self, snapshot: list[Family]) -> None:
        """A reader of the classic text gets the label values that went in, whatever they contain."""
        counters = [family for family in snapshot if family.metric.type != "histogram"]
        text = Renderer().render(counters, openmetrics=False).decode()
        read = [sample.labels for family in parse_classic(text) for sample in family.samples]
        assert read == [dict(zip(f.metric.labels, s.labels, strict=True)) for f in counters for s in f.series]

    def test_values_change_between_scrapes(self) -> None:
        """What is remembered between scrapes is the text, not the numbers."""
        renderer = Renderer()
        first, second = (renderer.render(sample(calls=calls), openmetrics=False) for calls in (3, 4))
        assert first.replace(b'calls_total{tool="search"} 3.0', b'calls_total{tool="search"} 4.0') == second

    def test_forgets_what_vanished(self) -> None:
        """A million tool names, one after another, leave only the last one's text in memory."""
        renderer = Renderer()
        for number in range(100):
            renderer.render(sample(tool=f"tool-{number}"), openmetrics=True)
        renderer.render(sample(tool="last")[:2], openmetrics=True)
        remembered = {metric.name: list(texts) for metric, texts in renderer._texts.items()}
        assert remembered == {"wait_seconds": [("last", "")], "calls_total": [("last",)]}

    def test_lone_surrogate_breaks_no_scrape(self) -> None:
        """A label that UTF-8 cannot hold is shown escaped, here and in prometheus_client's own output."""
        snapshot = sample(tool="a\ud800b")
        rendered = Renderer().render(snapshot, openmetrics=False)
        assert b'calls_total{tool="a\\\\ud800b"} 3.0\n' in rendered
        assert exposition.generate_latest(registry_of(snapshot)) == rendered

    def test_wrong_number_of_labels_is_refused(self) -> None:
        """A series whose labels do not fit its metric raises instead of showing something else."""
        with pytest.raises(ValueError, match="shorter"):
            Renderer().render([Family(CALLS, [CounterSeries((), 1)])], openmetrics=False)

    def test_threads(self) -> None:
        """Scrapes of both formats on several threads at once give what each gives alone."""
        renderer, snapshot = Renderer(), [Family(CALLS, [CounterSeries((f"t{n}",), n) for n in range(500)])]
        expected = [Renderer().render(snapshot, bool(n % 2)) for n in range(40)]
        with ThreadPoolExecutor(4) as pool:
            assert expected == list(pool.map(lambda n: renderer.render(snapshot, bool(n % 2)), range(40)))


class TestRenderAll:
    def test_is_one_exposition(self) -> None:
        """The snapshot and the other registries make one text that a parser accepts, with one end mark."""
        first, second = CollectorRegistry(), CollectorRegistry()
        Counter("queue_events", "Queued.", registry=first).inc(5)
        Gauge("memory_bytes", "Memory.", registry=second).set(7)
        body, content_type = Renderer().render_all(sample(), [first, second], PROMETHEUS_2)
        read = {s.name: s.value for family in parse_openmetrics(body.decode()) for s in family.samples}
        assert body.count(b"# EOF\n") == 1
        assert body.endswith(b"# EOF\n")
        assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
        assert [read["calls_total"], read["queue_events_total"], read["memory_bytes"]] == [3.0, 5.0, 7.0]

    def test_classic(self) -> None:
        """Without an Accept header the answer is the classic text, without an end mark."""
        registry = CollectorRegistry()
        Gauge("memory_bytes", "Memory.", registry=registry).set(7)
        other = "# HELP memory_bytes Memory.\n# TYPE memory_bytes gauge\nmemory_bytes 7.0\n"
        expected = ((CLASSIC + other).encode(), "text/plain; version=0.0.4; charset=utf-8")
        assert Renderer().render_all(sample(), [registry], None) == expected

    def test_clashing_families_are_shown_once(self) -> None:
        """A family that is also in a registry, or in two, is shown once: ours first."""
        registry = registry_of(sample(calls=99))
        assert Renderer().render_all(sample(), [registry, registry], None)[0].decode() == CLASSIC

    @pytest.mark.parametrize("accept", [None, PROMETHEUS_2])
    def test_no_created_series(self, accept: str | None) -> None:
        """`_created` series of other registries are left out, in both formats, and stay in the registry itself."""
        registry = CollectorRegistry()
        registry.register(Created())
        assert b"_created" not in Renderer().render_all([], [registry], accept)[0]
        assert b"_created" in generate_latest(registry)


class Created(Collector):
    """A collector that hands out the same family at every scrape."""

    family = CounterMetricFamily("jobs", "Jobs.", value=1, created=1.5)

    def collect(self) -> Iterator[ClientMetric]:
        """Yields the family."""
        yield self.family


class TestFamiliesCollector:
    def test_describes_without_a_snapshot(self) -> None:
        """Registering takes no snapshot, and scraping takes one."""
        taken: list[str] = []

        def snapshot() -> list[Family]:
            taken.append("snapshot")
            return sample()

        registry = CollectorRegistry()
        registry.register(FamiliesCollector(snapshot))
        at_registration = list(taken)
        generate_latest(registry)
        assert (at_registration, taken) == ([], ["snapshot"])

    def test_clash_is_refused_at_registration(self) -> None:
        """A registry that has one of our names already refuses the collector."""
        registry = CollectorRegistry()
        Counter("agent_runtime_events", "Theirs.", registry=registry)
        with pytest.raises(ValueError, match="agent_runtime_events"):
            registry.register(FamiliesCollector(list))

    def test_describes_the_table(self) -> None:
        """What it describes is the metric table, family by family."""
        described = [(family.name, family.type) for family in FamiliesCollector(list).describe()]
        assert described == [(metric.family, metric.type) for metric in METRICS]


class TestChoose:
    @pytest.mark.parametrize(
        "accept",
        [
            "", "*/*", BROWSER, PROMETHEUS_2, PROMETHEUS_3, PROMETHEUS_3_NATIVE,
            "application/openmetrics-text", "application/openmetrics-text; version=0.0.1", "text/plain;version=0.0.4",
            "text/plain; version=1.0.0; escaping=values", "application/json",
        ],
    )  # fmt: skip
    def test_as_prometheus_client(self, accept: str) -> None:
        """The content type is the one that prometheus_client answers with."""
        _, content_type = exposition.choose_encoder(accept)
        assert choose(accept) == (content_type, content_type.startswith("application/openmetrics-text"))

    @pytest.mark.parametrize(
        ("accept", "openmetrics"),
        [(None, False), (BROWSER, False), (PROMETHEUS_2, True), (PROMETHEUS_3, True), (PROMETHEUS_3_NATIVE, True)],
    )
    def test_formats(self, accept: str | None, openmetrics: bool) -> None:
        """Prometheus gets OpenMetrics 1.0, which has the exemplars, and others the classic text."""
        content_type, chosen = choose(accept)
        expected = (
            "application/openmetrics-text; version=1.0.0; charset=utf-8" if openmetrics else "text/plain; version=0.0.4"
        )
        assert (chosen, content_type[: len(expected)]) == (openmetrics, expected)

    @pytest.mark.parametrize("version", ["2.0.0", "1.a", '"1.0.0"', "9", "-1"])
    def test_other_versions_are_passed_over(self, version: str) -> None:
        """A version that is not written here is never promised and never raises; the next choice is taken."""
        wanted = f"application/openmetrics-text;version={version}"
        assert [choose(wanted), choose(f"{wanted},{PROMETHEUS_2}")] == [choose(None), choose(PROMETHEUS_2)]

    @given(st.text(alphabet='application/openmetrics-text;versi=1.0 ,q"*plain', max_size=80))
    def test_any_header_has_an_answer(self, accept: str) -> None:
        """No Accept header makes a scrape fail."""
        assert choose(accept)[0].startswith(("application/openmetrics-text; version=1.0.0", "text/plain; version="))
