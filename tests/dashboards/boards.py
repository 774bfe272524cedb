"""What the tests read out of the committed boards."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from dashboards.__main__ import JSON_DIRECTORY

BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(JSON_DIRECTORY.glob("*.json"))
}


class Target(NamedTuple):
    """One query of a panel."""

    board: str
    panel: dict[str, Any]
    expr: str
    legend: str
    exemplar: bool


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns a board's panels without its rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def targets() -> Iterator[Target]:
    """Yields every query of every board."""
    for uid, board in BOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                yield Target(uid, panel, target["expr"], target.get("legendFormat", ""), target["exemplar"])


def interpolated(expr: str, interval: str = "5m", span: str = "3h") -> str:
    """Returns an expression as Grafana sends it while every variable stands at All."""
    expr = expr.replace("$__rate_interval", interval).replace("$__range", span)
    return re.sub(r"\$(job|agent|tool)\b", ".+", expr)
