"""The series of a metric as the fold keeps them: whole numbers, so that their sums do not depend on the order of
arrival."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from typing import Any

from telemetry.families import CounterSeries, Exemplar, Family, HistogramSeries
from telemetry.identity import root_span_id, span_id, trace_id
from telemetry.metrics import Metric

NANO = 1_000_000_000
OTHER = "_other"
MAX_SERIES = 1_000

# What an exemplar needs: the value in nanoseconds, the correlation id, the span's operation, its opening event's id
# (empty: the turn's own span), the time in microseconds.
Observed = tuple[int, str, str, str, int]


class Counter:
    """One series of a counter or a gauge.

    ``value`` is a count, nanoseconds or nano-dollars; ``shown_value`` is the value that ``shown`` shows.
    """

    __slots__ = ("labels", "value", "shown", "shown_value")

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.value = 0
        self.shown: CounterSeries | None = None
        self.shown_value = 0


class Histogram:
    """One label set of a histogram, over nanoseconds."""

    __slots__ = ("labels", "bounds", "counts", "sum", "exemplars", "shown")

    def __init__(self, labels: tuple[str, ...], bounds: tuple[int, ...]) -> None:
        self.labels = labels
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0
        self.exemplars: list[Observed | None] = [None] * (len(bounds) + 1)
        self.shown: HistogramSeries | None = None

    def observe(self, value: int, observed: Observed | None) -> None:
        """Count ``value`` nanoseconds; ``observed`` becomes its bucket's exemplar."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.sum += value
        if observed is not None:
            self.exemplars[bucket] = observed
        self.shown = None


class SeriesTable:
    """All series of one metric, at most ``MAX_SERIES``; label sets beyond that share one whose values are all
    ``_other``."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.bounds = tuple(round(bound * NANO) for bound in metric.buckets)
        self.series: dict[tuple[str, ...], Any] = {}
        self._scale = NANO if metric.unit else 1

    def cell(self, labels: tuple[str, ...]) -> Any:
        """The series with these label values, made if it is new: a ``Histogram`` or a ``Counter``."""
        found = self.series.get(labels)
        if found is None:
            if len(self.series) >= MAX_SERIES:
                labels = (OTHER,) * len(labels)
                if labels in self.series:
                    return self.series[labels]
            found = Histogram(labels, self.bounds) if self.metric.type == "histogram" else Counter(labels)
            self.series[labels] = found
        return found

    def family(self) -> Family:
        """The series as plain data, in exposed units. What did not change since the last call is the same object as
        then."""
        shown: list[Any] = []
        for cell in self.series.values():
            if cell.shown is None or (not self.bounds and cell.value != cell.shown_value):
                cell.shown = self._show_histogram(cell) if self.bounds else self._show_counter(cell)
            shown.append(cell.shown)
        return Family(self.metric, shown)

    def _show_counter(self, cell: Counter) -> CounterSeries:
        cell.shown_value = cell.value
        value = cell.value if self.metric.type == "counter" else max(0, cell.value)
        return CounterSeries(cell.labels, value if self._scale == 1 else value / self._scale)

    def _show_histogram(self, cell: Histogram) -> HistogramSeries:
        exemplars = [None if observed is None else _exemplar(observed) for observed in cell.exemplars]
        return HistogramSeries(cell.labels, list(cell.counts), cell.sum / NANO, exemplars)

    def dump(self) -> list[Any]:
        """Plain data for ``load``."""
        if self.bounds:
            return [[c.labels, c.counts, _kept(c.sum), c.exemplars] for c in self.series.values()]
        return [[c.labels, _kept(c.value)] for c in self.series.values()]

    def load(self, rows: list[Any]) -> None:
        """Take over what ``dump`` gave."""
        self.series = {}
        for labels, value, *rest in rows:
            cell = self.cell(tuple(labels))
            if self.bounds:
                cell.counts = value
                total, exemplars = rest
                cell.sum = int(total)
                cell.exemplars = [None if observed is None else tuple(observed) for observed in exemplars]
            else:
                cell.value = int(value)


class LabelBudget:
    """How many values each label may take; what comes later is ``_other``.

    Args:
        budget: distinct values a label, ``_other`` among them.
        known: values that always pass, by label, and are not counted.
    """

    def __init__(self, budget: int, known: dict[str, frozenset[str]]) -> None:
        self._budget = max(1, budget - 1)
        self._known = known
        self.values: dict[str, OrderedDict[str, None]] = {}

    def admit(self, label: str, value: str) -> str:
        """``value``, or ``_other`` if the label's budget is used up."""
        if value in self._known.get(label, ()) or value == OTHER:
            return value
        values = self.values.setdefault(label, OrderedDict())
        if value in values:
            return value
        if len(values) >= self._budget:
            return OTHER
        values[value] = None
        return value


def _kept(total: int) -> int | str:
    """A sum as JSON that orjson writes: beyond 64 bits, which a few absurd durations reach, as text."""
    return total if -(2**63) <= total < 2**63 else str(total)


def _exemplar(observed: Observed) -> Exemplar:
    value, correlation_id, operation, opening_id, time_us = observed
    span = span_id(opening_id, operation) if opening_id else root_span_id(correlation_id)
    return Exemplar(value / NANO, trace_id(correlation_id).hex(), span.hex(), time_us / 1_000_000)
