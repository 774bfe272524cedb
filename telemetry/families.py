"""A snapshot of the metrics as plain data: what the fold hands to the exposition.

A snapshot is a `list[Family]`. It shares nothing with the fold that made it, so another thread may render it meanwhile.
"""

from dataclasses import dataclass

from telemetry.metrics import Metric


@dataclass(slots=True)
class Exemplar:
    """One observation that stands for its bucket, with the span to look at.

    `value` is in the metric's unit, `trace_id` and `span_id` are hex digits, `time` is in seconds since the epoch.
    """

    value: float
    trace_id: str
    span_id: str
    time: float


@dataclass(slots=True)
class CounterSeries:
    """One series of a counter or a gauge: label values in the metric's order, and the value in its unit."""

    labels: tuple[str, ...]
    value: int | float


@dataclass(slots=True)
class HistogramSeries:
    """One label set of a histogram.

    `counts` has one entry per bucket and one for `+Inf`, not cumulative; `exemplars` goes along with it; `sum` is in
    the metric's unit.
    """

    labels: tuple[str, ...]
    counts: list[int]
    sum: float
    exemplars: list[Exemplar | None]


@dataclass(slots=True)
class Family:
    """A metric and its series."""

    metric: Metric
    series: list[CounterSeries] | list[HistogramSeries]
