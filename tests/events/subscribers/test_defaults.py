import subprocess
import sys
from pathlib import Path

import pytest

from agent_runtime.events import subscribers

ROOT = Path(__file__).parents[3]


def run(program: str) -> str:
    """What ``program`` prints in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_default_instances_work_in_a_script_without_any_set_up() -> None:
    """Import, publish, ask: as the client's examples do."""
    program = """
import asyncio
from agent_runtime.events import event_bus
from agent_runtime.events.agent_events import AgentSwitchedEvent
from agent_runtime.events.subscribers import audit_logger, metrics_collector, session_metrics_collector

async def main():
    event = AgentSwitchedEvent(session_id="s", from_agent="orchestrator", to_agent="coder", reason="code")
    await event_bus.publish(event, wait_for_handlers=True)

asyncio.run(main())
print("counts", metrics_collector.get_agent_switch_count("orchestrator", "coder"))
print("rows", len(audit_logger.get_audit_log(session_id="s", event_type="agent_switched")))
print("session", session_metrics_collector.get_session_metrics("s"))
"""
    assert run(program).splitlines()[-3:] == ["counts 1", "rows 1", "session None"]


def test_nothing_is_attached_before_its_name_is_used() -> None:
    """Importing classes subscribes nobody, a name used twice subscribes once, and no submodule hides it."""
    program = """
from agent_runtime.events import event_bus
from agent_runtime.events.subscribers import MetricsCollector
from agent_runtime.events.subscribers.metrics_collector import MetricsCollector
print(len(event_bus.subscriptions))
from agent_runtime.events.subscribers import metrics_collector
from agent_runtime.events.subscribers import metrics_collector as again
print(len(event_bus.subscriptions), type(metrics_collector) is MetricsCollector, again is metrics_collector)
"""
    assert run(program).splitlines() == ["0", "1 True True"]


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="nonsense"):
        subscribers.nonsense  # noqa: B018 - looking it up is the test
