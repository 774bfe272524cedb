import subprocess
from typing import Any

import pytest
from prometheus_client.utils import floatToGoString

from telemetry.exposition import Renderer
from telemetry.families import CounterSeries, Family, HistogramSeries
from telemetry.metrics import METRICS, Metric, table
from tests.prometheus_server import installed

HISTOGRAM_BOUNDS = {
    "gen_ai_invoke_agent_duration_seconds": (13, "0.1", "409.6"),
    "gen_ai_invoke_workflow_duration_seconds": (11, "1.0", "7200.0"),
    "gen_ai_execute_tool_duration_seconds": (14, "0.01", "81.92"),
    "agent_runtime_hitl_wait_seconds": (14, "1.0", "86400.0"),
    "gen_ai_client_inference_duration_seconds": (14, "0.01", "81.92"),
    "gen_ai_client_inference_time_to_first_chunk_seconds": (14, "0.01", "81.92"),
}
VOCABULARY = {
    "event_type", "from_agent", "to_agent", "gen_ai_agent_name", "gen_ai_tool_name", "gen_ai_request_model",
    "gen_ai_provider_name", "error_type", "phase", "decision", "role", "label",
}  # fmt: skip


def row(**changes: Any) -> Metric:
    """Returns a sound counter row with the given changes."""
    return Metric(**{"name": "a_total", "type": "counter", "help": "A.", "source": "every event", **changes})


def test_bounds() -> None:
    """Each histogram has the bounds that the conventions give, written without float noise."""
    bounds = {
        metric.name: (len(metric.buckets), floatToGoString(metric.buckets[0]), floatToGoString(metric.buckets[-1]))
        for metric in METRICS
        if metric.type == "histogram"
    }
    assert bounds == HISTOGRAM_BOUNDS


def test_one_vocabulary() -> None:
    """The rows use one label vocabulary, and all of it."""
    assert {label for metric in METRICS for label in metric.labels} == VOCABULARY


def test_durations_are_in_seconds() -> None:
    """What is named after a unit is declared in that unit."""
    declared = {metric.name: metric.unit for metric in METRICS}
    named = {
        metric.name: next((u for u in ("seconds", "usd") if metric.family.endswith(f"_{u}")), "") for metric in METRICS
    }
    assert declared == named


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"name": "1a_total"}, "not a valid Prometheus name"),
        ({"name": "a:b_total"}, "not a valid Prometheus name"),
        ({"name": "a-b_total"}, "not a valid Prometheus name"),
        ({"name": "a\n_total"}, "not a valid Prometheus name"),
        ({"name": "a"}, "end with _total"),
        ({"type": "gauge"}, "end with _total"),
        ({"name": "a_count", "type": "gauge"}, "a suffix"),
        ({"name": "a_sum_total"}, "a suffix"),
        ({"unit": "seconds"}, "end with its unit, _seconds"),
        ({"help": ""}, "one sentence"),
        ({"help": "Two.\nLines."}, "one sentence"),
        ({"source": ""}, "source must say"),
        ({"labels": ("a-b",)}, "'a-b' is not a label name"),
        ({"labels": ("__a",)}, "'__a' is not a label name"),
        ({"labels": ("le",)}, "'le' is not a label name"),
        ({"labels": ("instance",)}, "'instance' is not a label name"),
        ({"labels": ("session_id",)}, "'session_id' is an id"),
        ({"labels": ("trace_id",)}, "'trace_id' is an id"),
        ({"labels": ("a", "b", "a")}, "named twice"),
        ({"buckets": (1.0,)}, "only a histogram"),
        ({"name": "a", "type": "histogram"}, "1 to 14 buckets, not 0"),
        ({"name": "a", "type": "histogram", "buckets": tuple(range(1, 16))}, "1 to 14 buckets, not 15"),
        ({"name": "a", "type": "histogram", "buckets": (1.0, 1.0)}, "ascend"),
        ({"name": "a", "type": "histogram", "buckets": (0.0, 1.0)}, "finite and positive"),
        ({"name": "a", "type": "histogram", "buckets": (1.0, float("inf"))}, "finite and positive"),
    ],
)
def test_bad_row_is_refused(changes: dict[str, Any], fault: str) -> None:
    """A row that Prometheus would refuse, or that would cost too much there, raises where it is defined."""
    with pytest.raises(ValueError, match=fault):
        row(**changes)


def test_same_family_twice_is_refused() -> None:
    """Two rows may not have the same family, also not a counter and a gauge."""
    with pytest.raises(ValueError, match="metrics defined twice: a"):
        table(row(), row(name="a", type="gauge"))


def test_promtool_has_no_objection() -> None:
    """Prometheus' own linter accepts every name, type and help text of the table."""
    promtool = installed("promtool")
    exposition = Renderer().render([sample_family(metric) for metric in METRICS], openmetrics=False)
    linted = subprocess.run([promtool, "check", "metrics"], input=exposition, capture_output=True, check=False)
    assert (linted.returncode, linted.stderr.decode()) == (0, "")


def sample_family(metric: Metric) -> Family:
    """Returns the metric with one series."""
    labels = tuple(f"some {label}" for label in metric.labels)
    if metric.type == "histogram":
        counts = [1] * (len(metric.buckets) + 1)
        return Family(metric, [HistogramSeries(labels, counts, 3.5, [None] * len(counts))])
    return Family(metric, [CounterSeries(labels, 7)])
