"""The boards are current, well-formed, and ask only for what the metric tables have."""

import json
import re
from pathlib import Path

import promql_parser
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard, units

from dashboards.__main__ import main, render, stale, write
from telemetry.metrics import METRICS, Metric
from telemetry.pipeline_metrics import PIPELINE_METRICS
from tests.dashboards.boards import BOARDS, Target, interpolated, panels, targets

ALL_METRICS = (*METRICS, *PIPELINE_METRICS)
TARGETS = list(targets())
UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}
# A stat about the last hour or day, and a burn rate, mean a fixed window whatever the zoom.
FIXED_WINDOWS = {"1h", "6h", "24h", "$__range"}
# Prometheus adds these to every series.
TARGET_LABELS = {"job", "instance"}

each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS.keys())
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.panel['id']} {t.expr[:40]}")


def samples(metric: Metric) -> dict[str, set[str]]:
    """Returns the names under which Prometheus stores a metric, each with its labels."""
    labels = set(metric.labels)
    if metric.type != "histogram":
        return {metric.name: labels}
    return {f"{metric.name}_bucket": labels | {"le"}, f"{metric.name}_count": labels, f"{metric.name}_sum": labels}


LABELS_OF = {name: labels for metric in ALL_METRICS for name, labels in samples(metric).items()}


def nodes(expr: str) -> list[promql_parser.Expr]:
    """Returns every node of a query's syntax tree."""
    found: list[promql_parser.Expr] = []
    promql_parser.walk(promql_parser.parse(interpolated(expr)), found.append)
    return found


def selectors(expr: str) -> list[promql_parser.VectorSelector]:
    """Returns every series selector of a query."""
    found = []
    for node in nodes(expr):
        if isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)
        elif isinstance(node, promql_parser.VectorSelector):
            found.append(node)
    return found


def test_the_committed_json_is_current() -> None:
    """json/ is what the code makes; `make dashboards` brings it up to date."""
    assert [] == stale()
    assert 0 == main(["--check"])


def test_a_stale_directory_is_told_and_mended(tmp_path: Path) -> None:
    """A changed, a missing and a stray file are each named; after a write none is left."""
    (tmp_path / "stray.json").write_text("{}")
    assert sorted(["stray.json", *render()]) == stale(tmp_path)
    assert sorted(["stray.json", *render()]) == write(tmp_path)
    assert [] == stale(tmp_path)
    first = next(iter(render()))
    (tmp_path / first).write_text("{}")
    assert [first] == stale(tmp_path)


@each_board
def test_round_trip_through_the_sdk_keeps_everything(board) -> None:
    """A key that the SDK does not know would be lost on the way through its types."""
    register_default_plugins()
    assert board == json.loads(json.dumps(dashboard.Dashboard.from_json(board), cls=JSONEncoder))


@pytest.mark.parametrize("uid", BOARDS)
def test_board_settings(uid) -> None:
    """Read-only, a fixed uid, a shared crosshair, and a schema that file provisioning reads."""
    board = BOARDS[uid]
    assert (uid, False, 1, True) == (
        board["uid"],
        board["editable"],
        board["graphTooltip"],
        board["schemaVersion"] <= 42,
    )


@each_board
def test_variables(board) -> None:
    """The data source, the job, the agent and the tool are chosen above; label values follow the time range."""
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert {"datasource", "job", "agent", "tool"} == set(variables)
    queries = [variable for variable in variables.values() if variable["type"] == "query"]
    assert [(2, ".+", True, True)] * 3 == [(v["refresh"], v["allValue"], v["includeAll"], v["multi"]) for v in queries]
    for variable in queries:
        metric, label = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["definition"]).groups()
        assert label in LABELS_OF[metric] | TARGET_LABELS


@each_board
def test_panels_can_be_read_by_a_stranger(board) -> None:
    """Every panel has a title of its own, a description that says what to do, and a unit that Grafana knows."""
    found = panels(board)
    titles = [panel["title"] for panel in found]
    assert sorted(set(titles)) == sorted(titles)
    assert [] == [panel["title"] for panel in found if len(panel["description"].split()) < 8]
    assert [] == [panel["title"] for panel in found if panel["fieldConfig"]["defaults"]["unit"] not in UNITS]


@each_board
def test_panels_take_the_chosen_data_source(board) -> None:
    """No panel and no query is bound to one Prometheus."""
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    sources = [panel["datasource"] for panel in panels(board)]
    sources += [target["datasource"] for panel in panels(board) for target in panel["targets"]]
    assert [chosen] * len(sources) == sources


@each_board
def test_panels_have_ids_and_do_not_overlap(board) -> None:
    """Ids are explicit and unique, each cell of the grid belongs to one panel, and none is outside of it."""
    ids = [panel["id"] for panel in board["panels"]]
    assert sorted(set(ids)) == sorted(ids)
    assert 0 < min(ids)
    places = [panel["gridPos"] for panel in board["panels"]]
    cells = [(p["x"] + i, p["y"] + j) for p in places for i in range(p["w"]) for j in range(p["h"])]
    assert len(set(cells)) == len(cells)
    assert set(range(24)) == {x for x, _ in cells}


@each_target
def test_query_asks_for_metrics_and_labels_that_exist(target: Target) -> None:
    """Each selector names a stored sample, matches on its labels only, and is limited to the chosen jobs."""
    for selector in selectors(target.expr):
        matchers = {matcher.name for matcher in selector.matchers.matchers}
        assert selector.name in LABELS_OF
        assert set() == matchers - LABELS_OF[selector.name] - TARGET_LABELS
        assert "job" in matchers


@each_target
def test_query_groups_and_names_by_labels_that_exist(target: Target) -> None:
    """What is kept by an aggregation, and what a legend shows, is a label of every series below."""
    for node in nodes(target.expr):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            below = [LABELS_OF[selector.name] | TARGET_LABELS for selector in selectors(node.expr.prettify())]
            assert set() == set(node.modifier.labels) - set.intersection(*below)
    kept = {label for labels in re.findall(r"by \(([^)]*)\)", target.expr) for label in re.split(r",\s*", labels)}
    assert set() == set(re.findall(r"{{(\w+)}}", target.legend)) - kept


@each_target
def test_query_counts_with_rates(target: Target) -> None:
    """A counter is never shown raw, a gauge never as a rate, and windows follow the zoom unless they mean a time."""
    counters = {m.name for m in ALL_METRICS if m.type == "counter"}
    counters |= {name for m in ALL_METRICS if m.type == "histogram" for name in samples(m)}
    ranged = {n.vector_selector.name for n in nodes(target.expr) if isinstance(n, promql_parser.MatrixSelector)}
    assert counters & {selector.name for selector in selectors(target.expr)} == ranged
    assert set() == set(re.findall(r"\[(.*?)\]", target.expr)) - FIXED_WINDOWS - {"$__rate_interval"}


def test_exemplars_are_asked_of_buckets_only() -> None:
    """Prometheus keeps exemplars of raw buckets; durations of turns, agents, tools, models and waits show them."""
    asked = [target for target in TARGETS if target.exemplar]
    assert 5 <= len(asked)
    assert {True} == {selector.name.endswith("_bucket") for t in asked for selector in selectors(t.expr)}


def test_every_metric_is_on_a_panel() -> None:
    """A metric that nobody looks at is not worth its series."""
    shown = {selector.name for target in TARGETS for selector in selectors(target.expr)}
    assert [] == [metric.name for metric in ALL_METRICS if not shown & samples(metric).keys()]
