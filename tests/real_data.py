"""The real agent runs beside the repository, and the counts that are known to be true of them."""

import gzip
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from telemetry.metrics import METRICS

FOLDER = Path(__file__).parents[2] / "shared" / "data"
EVENTS = FOLDER / "tau_airline_events.jsonl.gz"
TRUTH = FOLDER / "tau_airline_truth.json"

_NAMES = tuple(metric.family for metric in METRICS)


def require() -> None:
    """Skip the test where the data are not there; fail it in CI, where they must be."""
    if EVENTS.exists():
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{EVENTS} is missing")
    pytest.skip(f"{EVENTS} is not on this machine")


@cache
def lines() -> tuple[bytes, ...]:
    """The events, one line of JSON each, in the order of their times."""
    require()
    return tuple(gzip.decompress(EVENTS.read_bytes()).splitlines())


@cache
def truth() -> dict[str, Any]:
    """The true counts."""
    require()
    counts: dict[str, Any] = json.loads(TRUTH.read_text())
    return counts


def domain_series(exposition: str) -> list[str]:
    """The sample lines of the metrics that are folds of events, without the service's own start and stop."""
    kept = [line for line in exposition.splitlines() if line.startswith(_NAMES)]
    return sorted(line for line in kept if 'event_type="system_' not in line)


def total(exposition: str, name: str, **labels: str) -> float:
    """The sum of the samples of that name whose labels match."""
    found = 0.0
    for line in exposition.splitlines():
        match = re.match(rf"{name}(?:{{(.*)}})? (\S+)$", line)
        if match is not None:
            have = dict(re.findall(r'(\w+)="([^"]*)"', match[1] or ""))
            if labels.items() <= have.items():
                found += float(match[2])
    return found
