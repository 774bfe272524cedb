"""Small builders over the Grafana foundation SDK's models: a panel, a row, a board.

Classic dashboards, although the SDK announces their end at import: Grafana's file provisioning takes no others yet.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from grafana_foundation_sdk.models import common, dashboard, prometheus, stat, table, timeseries

DATASOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
GRID_WIDTH = 24
TAG = "agent-runtime"


class Query(NamedTuple):
    """One PromQL expression of a panel; `exemplar` asks for the dots that lead to traces (histogram buckets only)."""

    expr: str
    legend: str = ""
    exemplar: bool = False


class Row(NamedTuple):
    """A titled row; its panels are placed from left to right and wrap at the grid's width."""

    id: int
    title: str
    panels: Sequence[dashboard.Panel]


class Variable(NamedTuple):
    """A drop-down of a label's values; `query` is a `label_values` query."""

    name: str
    label: str
    query: str


Thresholds = Sequence[tuple[float | None, str]]
"""Lower bounds and their colours, ascending; the first bound is None, minus infinity."""


def _targets(queries: Iterable[Query], instant: bool) -> Iterator[prometheus.Dataquery]:
    for ref_id, query in zip("ABCDEFGH", queries, strict=False):
        yield prometheus.Dataquery(
            ref_id=ref_id,
            datasource=DATASOURCE,
            expr=query.expr,
            legend_format=query.legend or None,
            exemplar=query.exemplar,
            instant=instant,
            range_val=not instant,
            editor_mode=prometheus.QueryEditorMode.CODE,
        )


def _steps(thresholds: Thresholds) -> dashboard.ThresholdsConfig:
    return dashboard.ThresholdsConfig(
        mode=dashboard.ThresholdsMode.ABSOLUTE,
        steps=[dashboard.Threshold(value, color) for value, color in thresholds],
    )


def single(
    id: int,
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    thresholds: Thresholds = ((None, "text"),),
    decimals: int | None = None,
    no_value: str = "–",
    width: int = 3,
) -> dashboard.Panel:
    """Returns one number, with its recent course behind it."""
    return dashboard.Panel(
        type_val="stat",
        id_val=id,
        title=title,
        description=description,
        datasource=DATASOURCE,
        grid_pos=dashboard.GridPos(h=4, w=width),
        targets=list(_targets([query], instant=False)),
        options=stat.Options(
            graph_mode=common.BigValueGraphMode.AREA,
            color_mode=common.BigValueColorMode.VALUE,
            justify_mode=common.BigValueJustifyMode.AUTO,
            text_mode=common.BigValueTextMode.AUTO,
            orientation=common.VizOrientation.AUTO,
            reduce_options=common.ReduceDataOptions(values=False, calcs=["lastNotNull"], fields=""),
        ),
        field_config=dashboard.FieldConfigSource(
            defaults=dashboard.FieldConfig(
                unit=unit,
                decimals=decimals,
                no_value=no_value,
                thresholds=_steps(thresholds),
                color=dashboard.FieldColor(mode=dashboard.FieldColorModeId.THRESHOLDS),
            ),
            overrides=[],
        ),
    )


def graph(
    id: int,
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    stacked: bool = False,
    thresholds: Thresholds = (),
    maximum: float | None = None,
    width: int = 8,
) -> dashboard.Panel:
    """Returns curves over time from zero up; `stacked` adds them up, `thresholds` are drawn as dashed lines."""
    custom = timeseries.FieldConfig(
        line_width=1,
        fill_opacity=25 if stacked else 5,
        show_points=common.VisibilityMode.NEVER,
        stacking=common.StackingConfig(
            mode=common.StackingMode.NORMAL if stacked else common.StackingMode.NONE, group="A"
        ),
        thresholds_style=common.GraphThresholdsStyleConfig(
            mode=common.GraphThresholdsStyleMode.DASHED if thresholds else common.GraphThresholdsStyleMode.OFF
        ),
    )
    return dashboard.Panel(
        type_val="timeseries",
        id_val=id,
        title=title,
        description=description,
        datasource=DATASOURCE,
        grid_pos=dashboard.GridPos(h=8, w=width),
        targets=list(_targets(queries, instant=False)),
        options=timeseries.Options(
            legend=common.VizLegendOptions(
                display_mode=common.LegendDisplayMode.TABLE,
                placement=common.LegendPlacement.BOTTOM,
                show_legend=True,
                calcs=["lastNotNull", "max"],
            ),
            tooltip=common.VizTooltipOptions(mode=common.TooltipDisplayMode.MULTI, sort=common.SortOrder.DESCENDING),
        ),
        field_config=dashboard.FieldConfigSource(
            defaults=dashboard.FieldConfig(
                unit=unit,
                min_val=0,
                max_val=maximum,
                thresholds=_steps(thresholds or ((None, "green"),)),
                color=dashboard.FieldColor(mode=dashboard.FieldColorModeId.PALETTE_CLASSIC),
                custom=custom,
            ),
            overrides=[],
        ),
    )


def matrix(
    id: int, title: str, description: str, unit: str, query: Query, *, row: str, column: str, width: int = 8
) -> dashboard.Panel:
    """Returns a table with one line for each value of the label `row` and one column for each of `column`."""
    cells = common.TableColoredBackgroundCellOptions(mode=common.TableCellBackgroundDisplayMode.BASIC)
    return dashboard.Panel(
        type_val="table",
        id_val=id,
        title=title,
        description=description,
        datasource=DATASOURCE,
        grid_pos=dashboard.GridPos(h=8, w=width),
        targets=[_as_table(target) for target in _targets([query], instant=True)],
        transformations=[
            dashboard.DataTransformerConfig(
                id_val="groupingToMatrix",
                options={"rowField": row, "columnField": column, "valueField": "Value", "emptyValue": "zero"},
            )
        ],
        options=table.Options(),
        field_config=dashboard.FieldConfigSource(
            defaults=dashboard.FieldConfig(
                unit=unit,
                decimals=0,
                thresholds=_steps(((None, "transparent"), (1, "semi-dark-blue"))),
                custom=common.TableFieldOptions(cell_options=cells),
            ),
            overrides=[],
        ),
    )


def _as_table(target: prometheus.Dataquery) -> prometheus.Dataquery:
    target.format_val = prometheus.PromQueryFormat.TABLE
    return target


def _place(rows: Iterable[Row]) -> Iterator[dashboard.Panel | dashboard.RowPanel]:
    y = 0
    for row in rows:
        yield dashboard.RowPanel(
            id_val=row.id, title=row.title, grid_pos=dashboard.GridPos(h=1, w=GRID_WIDTH, x=0, y=y), panels=[]
        )
        y, x, height = y + 1, 0, 0
        for panel in row.panels:
            assert panel.grid_pos is not None
            if x + panel.grid_pos.w > GRID_WIDTH:
                y, x, height = y + height, 0, 0
            panel.grid_pos.x, panel.grid_pos.y = x, y
            x, height = x + panel.grid_pos.w, max(height, panel.grid_pos.h)
            yield panel
        y += height


def _variables(variables: Iterable[Variable]) -> Iterator[dashboard.VariableModel]:
    yield dashboard.VariableModel(
        type_val=dashboard.VariableType.DATASOURCE,
        name="datasource",
        label="Data source",
        query="prometheus",
        current=dashboard.VariableOption(selected=True, text="Prometheus", value="prometheus"),
    )
    for variable in variables:
        yield dashboard.VariableModel(
            type_val=dashboard.VariableType.QUERY,
            name=variable.name,
            label=variable.label,
            datasource=DATASOURCE,
            definition=variable.query,
            query={"query": variable.query, "refId": "StandardVariableQuery"},
            refresh=dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED,
            sort=dashboard.VariableSort.ALPHABETICAL_ASC,
            multi=True,
            include_all=True,
            all_value=".+",
            current=dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]),
        )


def board(
    uid: str, title: str, description: str, variables: Iterable[Variable], rows: Iterable[Row]
) -> dashboard.Dashboard:
    """Returns a board: read-only, a crosshair shared by its panels, links to the boards with the same tag."""
    return dashboard.Dashboard(
        uid=uid,
        title=title,
        description=description,
        tags=[TAG],
        editable=False,
        graph_tooltip=dashboard.DashboardCursorSync.CROSSHAIR,
        time=dashboard.DashboardDashboardTime(from_val="now-3h", to="now"),
        refresh="30s",
        schema_version=42,  # the last one that file provisioning reads without trouble
        links=[
            dashboard.DashboardLink(
                title="Agent runtime",
                type_val=dashboard.DashboardLinkType.DASHBOARDS,
                tags=[TAG],
                as_dropdown=True,
                include_vars=True,
                keep_time=True,
            )
        ],
        templating=dashboard.DashboardDashboardTemplating(list_val=list(_variables(variables))),
        annotations=dashboard.AnnotationContainer(list_val=[]),
        panels=list(_place(rows)),
    )
