"""Floor 2: what people look at. Metrics and spans as folds of the event store, their exposition and export, and the
logs.

The two tables that a maintainer edits are ``telemetry.metrics.METRICS`` and ``telemetry.spans.SPANS``.
"""

from telemetry.runtime import Telemetry, attach
from telemetry.settings import TelemetrySettings

__all__ = ["Telemetry", "TelemetrySettings", "attach"]
