"""A program that is not ours, with telemetry attached in three lines.

Arguments: the turn's id, and a database or nothing.
"""

import asyncio
import sys

from prometheus_client import CollectorRegistry, generate_latest

from agent_runtime.events import EventBus, EventCorrelation
from agent_runtime.events.agent_events import AgentProcessingCompletedEvent, AgentProcessingStartedEvent
from agent_runtime.events.store.sqlite import SqliteStore
from telemetry import TelemetrySettings, attach

REGISTRY = CollectorRegistry()
SETTINGS = TelemetrySettings(settle_seconds=0.2)


async def main(turn: str, database: str | None) -> None:
    """One turn, then the series on standard output."""
    bus = EventBus(SqliteStore(database)) if database else EventBus()
    async with attach(bus, registry=REGISTRY, settings=SETTINGS):
        EventCorrelation.set_correlation_id(turn)
        started = AgentProcessingStartedEvent(agent_type="coder", message="hello", session_id="s-1")
        await bus.publish(started)
        end = AgentProcessingCompletedEvent(agent_type="coder", duration_ms=250.0, session_id="s-1")
        await bus.publish(end, wait_for_handlers=True)
        await asyncio.sleep(1.5)
        sys.stdout.write((await asyncio.to_thread(generate_latest, REGISTRY)).decode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
