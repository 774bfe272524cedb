"""Which agent has a session: a fold of the session's ``agent_switched`` events, kept beside it in the database.

The record of events is the truth. A context that is read from the database goes on with the switches that the store
has had since, so that one which was committed and not saved before a crash is not lost.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from agent_runtime.events.agent_events import AgentSwitchedEvent
from agent_runtime.events.base_event import BaseEvent, format_time_us
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.event_types import EventType
from agent_runtime.events.fields import name_problem
from agent_runtime.sessions.cache import Cache, Locks
from agent_runtime.sessions.database import Database
from agent_runtime.sessions.errors import InvalidSession, TooManySwitches, UnknownSession
from agent_runtime.sessions.models import AgentContextRow, SessionRow

SOURCE = "sessions"
MAX_SWITCHES = 50
# More than one session may have: only a foreign record of switches gets there.
_KEPT_SWITCHES = 200


@dataclass(frozen=True, slots=True)
class Switch:
    """One passing on of a session. ``at`` is RFC 3339 in UTC."""

    from_agent: str
    to_agent: str
    reason: str
    confidence: str | None
    at: str
    event_id: str


@dataclass(frozen=True, slots=True)
class AgentContext:
    """Which agent has a session, and how it came to that. It never changes: a switch makes another one.

    Attributes:
        switches: the latest, oldest first. switch_count: of all.
    """

    session_id: str
    current_agent: str
    switches: tuple[Switch, ...]
    switch_count: int
    created_at: datetime
    updated_at: datetime

    @property
    def last_event_id(self) -> str | None:
        """The event of the latest switch."""
        return self.switches[-1].event_id if self.switches else None

    def after(self, event: BaseEvent) -> AgentContext:
        """The context once the switch ``event`` has happened."""
        data = event.data
        switch = Switch(
            from_agent=data["from_agent"],
            to_agent=data["to_agent"],
            reason=data.get("reason") or "",
            confidence=data.get("confidence"),
            at=format_time_us(event.time_us),
            event_id=event.event_id,
        )
        return replace(
            self,
            current_agent=switch.to_agent,
            switches=(*self.switches, switch)[-_KEPT_SWITCHES:],
            switch_count=self.switch_count + 1,
            updated_at=event.timestamp,
        )


@dataclass(slots=True, eq=False)
class _Held:
    """A context in memory, the store's position that it stands at, and the last switch that the database has."""

    context: AgentContext
    position: int
    saved: str | None

    @property
    def dirty(self) -> bool:
        return self.context.last_event_id != self.saved


class AgentContextManager:
    """Reads contexts, and saves them. They change in one way only: an ``AgentContextSubscriber`` hands on a switch.

    Args:
        bus: where ``request_switch`` publishes, and whose store is the truth.
        database: migrated.
        first_agent: who has a session that was never passed on.
        max_switches: how often a session may be passed on.
        cache_size: contexts that are held in memory, beside those that are not saved yet.

    Attributes:
        max_switches: as given.
    """

    def __init__(
        self,
        bus: EventBus,
        database: Database,
        *,
        first_agent: str = "orchestrator",
        max_switches: int = MAX_SWITCHES,
        cache_size: int = 1_000,
    ) -> None:
        self._bus = bus
        self._database = database
        self._first_agent = first_agent
        self.max_switches = max_switches
        self._cache: Cache[_Held] = Cache(cache_size)
        # Of two that want to pass the same session on, the second sees what the first did.
        self._switching = Locks()

    async def get(self, session_id: str) -> AgentContext:
        """The context as it is now; a switch that was published and waited for is in it.

        Raises:
            UnknownSession: there is no such session.
        """
        return (await self._load(session_id)).context

    async def request_switch(
        self, session_id: str, to_agent: str, reason: str = "", confidence: str | None = None
    ) -> AgentContext:
        """Pass a session on: publish it, and come back when everyone has handled it. To the same agent nothing happens.

        Returns:
            The context after it.

        Raises:
            UnknownSession, TooManySwitches, or InvalidSession: that is no name of an agent.
        """
        if problem := name_problem(to_agent):
            raise InvalidSession("agent", problem)
        async with self._switching(session_id):
            context = await self.get(session_id)
            if to_agent == context.current_agent:
                return context
            if context.switch_count >= self.max_switches:
                raise TooManySwitches(session_id, self.max_switches)
            event = AgentSwitchedEvent(
                from_agent=context.current_agent,
                to_agent=to_agent,
                reason=reason,
                confidence=confidence,
                session_id=session_id,
                source=SOURCE,
            )
            await self._bus.publish(event, wait_for_handlers=True)
            return await self.get(session_id)

    async def switched(self, event: BaseEvent) -> None:
        """Take a switch over; for ``AgentContextSubscriber`` only. Once a switch, and only of sessions that exist."""
        if event.session_id is None:
            return
        try:
            held = await self._load(event.session_id)
        except UnknownSession:
            return
        # What was loaded from the store just now, or is delivered again, is in the context already.
        if (event.position and event.position <= held.position) or event.event_id == held.context.last_event_id:
            return
        held.context = held.context.after(event)
        held.position = event.position

    async def ended(self, session_id: str) -> None:
        """A session has ended: save its context, and hold it no longer."""
        await self.save_now(session_id)
        held = self._cache.get(session_id)
        if held is not None:
            self._cache.drop(session_id, held)

    def dirty(self) -> list[str]:
        """The ids of sessions whose contexts the database does not have as they are."""
        return self._cache.dirty()

    async def save_now(self, session_id: str) -> None:
        """Make a session's context durable; one that is not in memory is.

        Raises:
            DatabaseUnavailable: it is still to be saved.
        """
        held = self._cache.get(session_id)
        if held is None or not held.dirty:
            return
        async with self._cache.lock(session_id):
            context = held.context
            async with self._database.write() as session:
                await session.merge(_row(context))
            held.saved = context.last_event_id

    async def _load(self, session_id: str) -> _Held:
        held = self._cache.get(session_id)
        if held is not None:
            return held
        if name_problem(session_id):
            raise UnknownSession(session_id)
        async with self._cache.lock(session_id):
            held = self._cache.get(session_id)
            if held is None:
                held = await self._read(session_id)
                self._cache.put(session_id, held)
        return held

    async def _read(self, session_id: str) -> _Held:
        async with self._database.read() as session:
            row = await session.get(AgentContextRow, session_id)
            began = None if row is not None else await session.get(SessionRow, session_id)
        if row is not None:
            context = _context(row)
        elif began is not None:
            context = AgentContext(session_id, self._first_agent, (), 0, began.created_at, began.created_at)
        else:
            raise UnknownSession(session_id)
        held = _Held(context, 0, context.last_event_id)
        position, missed = await asyncio.to_thread(self._missed, session_id, context.last_event_id)
        held.position = position
        for event in missed:
            held.context = held.context.after(event)
            held.position = event.position
        return held

    def _missed(self, session_id: str, last_event_id: str | None) -> tuple[int, list[BaseEvent]]:
        """Where the store has the last switch that is known, and the switches that it has behind that."""
        store = self._bus.store
        last = store.get(last_event_id) if last_event_id is not None else None
        position = 0 if last is None else last.position
        types = [str(EventType.AGENT_SWITCHED)]
        missed = store.query(session_id=session_id, event_types=types, after=position, limit=_KEPT_SWITCHES)
        return position, missed


def _row(context: AgentContext) -> AgentContextRow:
    return AgentContextRow(
        session_id=context.session_id,
        current_agent=context.current_agent,
        switches=[asdict(switch) for switch in context.switches],
        switch_count=context.switch_count,
        last_event_id=context.last_event_id,
        created_at=context.created_at,
        updated_at=context.updated_at,
    )


def _context(row: AgentContextRow) -> AgentContext:
    switches: list[dict[str, Any]] = row.switches
    return AgentContext(
        session_id=row.session_id,
        current_agent=row.current_agent,
        switches=tuple(Switch(**switch) for switch in switches),
        switch_count=row.switch_count,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
