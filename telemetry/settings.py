"""What telemetry can be told. `agent_runtime.main` fills it from the service's settings; embedding programs fill it
themselves."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """The knobs of the folds.

    settle_seconds: how long, by recording time, a turn waits for late events before its metrics and spans are settled.
    turn_deadline_seconds, approval_deadline_seconds: after how long without an end a turn, or an approval that nobody
    decides, is closed and marked incomplete. late_seconds: how long a turn waits for a cause, a beginning or an
    agent's run that nobody has seen yet. label_budget: distinct values of one label before
    the rest becomes `_other`. prices_file: JSON table of model prices that goes before the built-in one.
    checkpoint_seconds: how often the folds' state is made durable; what a restart has to fold again, at most.
    capture_content: whether messages, arguments and results may be kept.
    """

    settle_seconds: float = 5.0
    turn_deadline_seconds: float = 3_600.0
    approval_deadline_seconds: float = 86_400.0
    late_seconds: float = 60.0
    label_budget: int = 100
    prices_file: Path | None = None
    checkpoint_seconds: float = 5.0
    capture_content: bool = False
