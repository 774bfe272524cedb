"""From the rows to the event store: what a crash kept back between a commit and its events is published afterwards."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from agent_runtime.events.correlation import NO_CONTEXT, current
from agent_runtime.events.event_bus import EventBus
from agent_runtime.hitl.announcements import events_of
from agent_runtime.hitl.models import Approval
from agent_runtime.hitl.table import ApprovalTable

logger = logging.getLogger("agent_runtime.hitl")

PAGE = 200


class Outbox:
    """Publishes approvals' events, at least once each; the event store makes that once."""

    def __init__(self, bus: EventBus, table: ApprovalTable) -> None:
        self._bus = bus
        self._table = table

    async def publish(self, approval: Approval) -> bool:
        """Publish all events of ``approval`` so far; False if that failed, and has to be tried again."""
        try:
            with _context_of_its_own():
                await self._bus.publish_many(events_of(approval))
            await self._table.mark_announced(approval)
            approval.announced = approval.status
        except Exception as error:
            logger.error("the events of approval %s could not be published yet: %r", approval.id, error)
            return False
        return True

    async def flush(self) -> AsyncIterator[Approval]:
        """Publish what is due, and yield each approval whose events are out now; one that fails stops no other."""
        after = ""
        while page := await self._table.unannounced(after, PAGE):
            for approval in page:
                if await self.publish(approval):
                    yield approval
            after = page[-1].id


@contextmanager
def _context_of_its_own() -> Iterator[None]:
    """An approval's events belong to the turn that asked: they inherit nothing from whoever happens to publish them."""
    token = current.set(NO_CONTEXT)
    try:
        yield
    finally:
        current.reset(token)
