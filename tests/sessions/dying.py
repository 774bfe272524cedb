"""A process that saves the call of a tool and its result, hears one message more, and is killed (-9).

python -m tests.sessions.dying DATABASE_URL
"""

import asyncio
import os
import signal
import sys

from agent_runtime.events.event_bus import EventBus
from agent_runtime.sessions.database import Database
from agent_runtime.sessions.manager import SessionManager
from tests.sessions.test_manager import TURN


async def live(url: str) -> None:
    """As far as it gets."""
    sessions = SessionManager(EventBus(), Database(url))
    await sessions.create("s-1")
    for message in TURN[:3]:
        await sessions.add_message("s-1", message)
    await sessions.save_now("s-1")
    await sessions.add_message("s-1", TURN[3])
    os.kill(os.getpid(), signal.SIGKILL)


asyncio.run(live(sys.argv[1]))
