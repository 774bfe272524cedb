"""The metrics as Prometheus reads them: the classic text format and OpenMetrics 1.0.

`Renderer` writes what `prometheus_client` would write for the same families, byte for byte, at a small part of its
cost: a series' text is composed once, and only the numbers change from scrape to scrape. `FamiliesCollector` is the
same snapshot for anyone's own registry.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from itertools import accumulate
from typing import cast

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as ClientMetric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as ClientExemplar
from prometheus_client.utils import floatToGoString

from telemetry.families import CounterSeries, Exemplar, Family, HistogramSeries
from telemetry.metrics import METRICS, Metric

_EOF = b"# EOF\n"
_go_number = cast(Callable[[float], str], floatToGoString)
_ANSWERABLE_VERSIONS = {"", "0.0.1", "0.0.4", "1.0.0"}


class Renderer:
    """Renders snapshots, and remembers the text of each series between scrapes.

    What it remembers is bounded by the last snapshot: a series that vanished is forgotten. One renderer may serve
    several threads.
    """

    def __init__(self) -> None:
        self._texts: dict[Metric, dict[tuple[str, ...], str]] = {}

    def render(self, families: Iterable[Family], openmetrics: bool) -> bytes:
        """Returns one complete exposition of the snapshot, with exemplars and `# EOF` if it is OpenMetrics."""
        return self._body(families, openmetrics) + (_EOF if openmetrics else b"")

    def render_all(
        self, families: Sequence[Family], registries: Sequence[CollectorRegistry], accept: str | None
    ) -> tuple[bytes, str]:
        """Returns a scrape's answer: one valid exposition of the snapshot and other registries, and its content type.

        A family that occurs twice is shown once, the snapshot's before the registries'. `_created` series are left
        out: older Prometheus servers store them as series of their own.

        Args:
            families: The snapshot.
            registries: For instance those of the process metrics and of the pipeline's own.
            accept: The request's `Accept` header.
        """
        encode, content_type = _negotiate(accept)
        others = _Others({family.metric.family for family in families}, registries)
        return self._body(families, _is_openmetrics(content_type)) + encode(others), content_type

    def _body(self, families: Iterable[Family], openmetrics: bool) -> bytes:
        parts: list[str] = []
        texts: dict[Metric, dict[tuple[str, ...], str]] = {}
        for family in families:
            metric = family.metric
            known, kept = self._texts.get(metric, {}), {}
            compose = _histogram_template if metric.type == "histogram" else _line_start
            parts.append(_header(metric, openmetrics))
            for series in family.series:
                labels = series.labels
                text = known.get(labels)
                if text is None:
                    text = compose(metric, labels)
                kept[labels] = text
                if isinstance(series, HistogramSeries):
                    parts.append(text % _histogram_numbers(series, openmetrics))
                else:
                    parts.append(f"{text}{_number(series.value)}\n")
            texts[metric] = kept
        self._texts = texts  # replaced, not changed: another thread may be reading the old one
        return "".join(parts).encode()


class FamiliesCollector(Collector):
    """The snapshot as a `prometheus_client` collector, exemplars included, for any `CollectorRegistry`.

    Args:
        snapshot: Called at each scrape, in the scrape's thread.
        metrics: What the snapshot may contain; a registry checks their names for clashes when it takes the collector.
    """

    def __init__(self, snapshot: Callable[[], list[Family]], metrics: Iterable[Metric] = METRICS) -> None:
        self._snapshot = snapshot
        self._metrics = tuple(metrics)

    def describe(self) -> Iterator[ClientMetric]:
        """Yields the families without samples, so that registering takes no snapshot."""
        return (_client_family(Family(metric, [])) for metric in self._metrics)

    def collect(self) -> Iterator[ClientMetric]:
        """Yields the families with their samples."""
        return map(_client_family, self._snapshot())


def choose(accept: str | None) -> tuple[str, bool]:
    """Returns the content type to answer with, and whether it is OpenMetrics, as `prometheus_client` negotiates them.

    Unlike `prometheus_client`, it never promises a version that is not written here (OpenMetrics 2.0), and a version
    that is not a number is passed over instead of raising.

    Args:
        accept: The request's `Accept` header. Prometheus 2 and 3 get OpenMetrics 1.0, browsers and curl classic text.
    """
    _, content_type = _negotiate(accept)
    return content_type, _is_openmetrics(content_type)


def _negotiate(accept: str | None) -> tuple[Callable[[Collector], bytes], str]:
    ranges = (accept or "").split(",")
    return choose_encoder(",".join(wanted for wanted in ranges if _version(wanted) in _ANSWERABLE_VERSIONS))


def _version(media_range: str) -> str:
    parameters = (parameter.partition("=") for parameter in media_range.split(";")[1:])
    return next((value.strip() for key, _, value in parameters if key.strip() == "version"), "")


def _is_openmetrics(content_type: str) -> bool:
    return content_type.startswith("application/openmetrics-text")


class _Others(Collector):
    """The families of several registries, each name once, without `_created` samples."""

    def __init__(self, taken: set[str], registries: Sequence[CollectorRegistry]) -> None:
        self._taken = taken
        self._registries = registries

    def collect(self) -> Iterator[ClientMetric]:
        for registry in self._registries:
            for family in registry.collect():
                if family.name in self._taken:
                    continue
                self._taken.add(family.name)
                shown = copy(family)  # a collector may hand out the same object at every scrape
                shown.samples = [sample for sample in family.samples if sample.name != f"{family.name}_created"]
                yield shown


def _header(metric: Metric, openmetrics: bool) -> str:
    help_text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
    if not openmetrics:
        return f"# HELP {metric.name} {help_text}\n# TYPE {metric.name} {metric.type}\n"
    help_text = help_text.replace('"', r"\"")
    unit = f"# UNIT {metric.family} {metric.unit}\n" if metric.unit else ""
    return f"# HELP {metric.family} {help_text}\n# TYPE {metric.family} {metric.type}\n{unit}"


def _line_start(metric: Metric, labels: tuple[str, ...]) -> str:
    return f"{metric.name}{_braces(_label_texts(metric, labels))} "


def _histogram_template(metric: Metric, labels: tuple[str, ...]) -> str:
    """Returns all lines of a label set with `%s` where the numbers go: the buckets, the count, the sum."""
    texts = _label_texts(metric, labels)
    bounds = [("le", f'le="{bound}"') for bound in _bounds(metric)]
    starts = [f"{metric.name}_bucket{_braces([*texts, bound])}" for bound in bounds]
    starts += [f"{metric.name}_count{_braces(texts)}", f"{metric.name}_sum{_braces(texts)}"]
    return "".join(f"{start.replace('%', '%%')} %s\n" for start in starts)


def _bounds(metric: Metric) -> list[str]:
    return [*map(_number, metric.buckets), "+Inf"]


def _label_texts(metric: Metric, labels: tuple[str, ...]) -> list[tuple[str, str]]:
    """Returns each label's name and its text, `name="value"`; the name because labels are shown in order of names."""
    return [(name, f'{name}="{_escape(_encodable(value))}"') for name, value in zip(metric.labels, labels, strict=True)]


def _braces(texts: list[tuple[str, str]]) -> str:
    return f"{{{','.join(text for _, text in sorted(texts))}}}" if texts else ""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _encodable(value: str) -> str:
    """Returns the value with lone surrogates written as `\\udXXX`: one of them would break every scrape."""
    return value.encode("utf-8", "backslashreplace").decode()


def _histogram_numbers(series: HistogramSeries, openmetrics: bool) -> tuple[str, ...]:
    counts = [*map(_number, accumulate(series.counts))]
    total = counts[-1]
    if openmetrics:
        for index, exemplar in enumerate(series.exemplars):
            if exemplar is not None:
                counts[index] += _exemplar_text(exemplar)
    return (*counts, total, _number(series.sum))


def _exemplar_text(exemplar: Exemplar) -> str:
    labels = f'{{span_id="{exemplar.span_id}",trace_id="{exemplar.trace_id}"}}'
    return f" # {labels} {_number(exemplar.value)} {exemplar.time}"


def _number(value: int | float) -> str:
    # Go, and with it prometheus_client, turns to exponents at a million; below that Python writes the same.
    return repr(float(value)) if 0 <= value < 1e6 else _go_number(value)


def _client_family(family: Family) -> ClientMetric:
    metric = family.metric
    if metric.type == "histogram":
        return _client_histogram(metric, cast(list[HistogramSeries], family.series))
    kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    shown = kind(metric.name, metric.help, labels=metric.labels, unit=metric.unit)
    for series in cast(list[CounterSeries], family.series):
        shown.add_metric([*map(_encodable, series.labels)], series.value)
    return shown


def _client_histogram(metric: Metric, series: list[HistogramSeries]) -> ClientMetric:
    shown = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels, unit=metric.unit)
    bounds = _bounds(metric)
    for one in series:
        buckets = [
            (bound, count) if exemplar is None else (bound, count, _client_exemplar(exemplar))
            for bound, count, exemplar in zip(bounds, accumulate(one.counts), one.exemplars, strict=True)
        ]
        shown.add_metric([*map(_encodable, one.labels)], buckets, one.sum)
    return shown


def _client_exemplar(exemplar: Exemplar) -> ClientExemplar:
    ids = {"trace_id": exemplar.trace_id, "span_id": exemplar.span_id}
    return ClientExemplar(ids, exemplar.value, exemplar.time)
