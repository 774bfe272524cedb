"""A process that takes events from a file and exports their spans, for tests that kill it.

Arguments: the database, the file.
"""

import asyncio
import os
import sys
from pathlib import Path

from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.parsing import parse_event
from agent_runtime.events.store.sqlite import SqliteStore
from telemetry import TelemetrySettings, attach


async def main(database: str, lines: str) -> None:
    """Publish everything in batches, then go on exporting."""
    bus = EventBus(SqliteStore(database, synchronous="NORMAL"))
    telemetry = attach(bus, settings=TelemetrySettings(settle_seconds=0.2, checkpoint_seconds=0.2), environ=os.environ)
    await telemetry.start()
    events = [parse_event(line) for line in Path(lines).read_bytes().splitlines()]
    for first in range(0, len(events), 200):
        await bus.publish_many(events[first : first + 200])
        await asyncio.sleep(0.01)
    print("published", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
