"""Sessions as the runtime uses them: in memory, published, and written behind."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from time import perf_counter
from typing import Any

from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.fields import name_problem
from agent_runtime.events.session_events import (
    MessageAddedEvent,
    SessionCreatedEvent,
    SessionDeletedEvent,
    SessionUpdatedEvent,
)
from agent_runtime.events.system_events import DatabaseQueryExecutedEvent
from agent_runtime.sessions.cache import Cache
from agent_runtime.sessions.database import Database
from agent_runtime.sessions.errors import SessionExists, UnknownSession
from agent_runtime.sessions.repository import SessionRepository
from agent_runtime.sessions.session import Message, Session, SessionInfo

SOURCE = "sessions"


class SessionManager:
    """Creates, reads, changes and ends sessions, and publishes what happened, with the current correlation and cause.

    Creating and ending are durable at once. Messages and details are written behind: by the persistence subscriber or
    the timer writer, which call ``save_now`` for what they know, or what ``dirty`` names. Who acts on something that
    must survive a crash (a tool call, a tool's result, a pending approval) awaits ``save_now`` first.

    Args:
        bus: where it publishes.
        database: migrated.
        cache_size: sessions that are held in memory, beside those that are not saved yet.
        report_queries: publish ``database_query_executed`` for each load and save.
    """

    def __init__(
        self, bus: EventBus, database: Database, *, cache_size: int = 1_000, report_queries: bool = False
    ) -> None:
        self._bus = bus
        self._repository = SessionRepository(database)
        self._cache: Cache[Session] = Cache(cache_size)
        self._report_queries = report_queries

    async def create(
        self,
        session_id: str | None = None,
        *,
        system_prompt: str = "",
        created_by: str = "system",
        details: dict[str, Any] | None = None,
    ) -> SessionInfo:
        """Begin a session, durably; its id is minted where none is given. Its event is the current cause afterwards.

        Raises:
            InvalidSession: something about it can't be kept. SessionExists: alive or ended, there is one of that id.
        """
        session = Session(
            Session.new_id() if session_id is None else session_id, system_prompt, created_by, details or {}
        )
        await self.save(session)
        created = SessionCreatedEvent(system_prompt=system_prompt, session_id=session.id, source=SOURCE)
        await self._bus.publish(created)
        EventCorrelation.set_causation_id(created.event_id)
        return session.info

    async def ensure(self, session_id: str) -> SessionInfo:
        """The session of that id; where there is none, one begins. Raises: as ``create``, but for SessionExists."""
        info = await self.get(session_id)
        if info is None:
            try:
                return await self.create(session_id)
            except SessionExists:
                info = await self.get(session_id)
        if info is None:
            raise UnknownSession(session_id)
        return info

    async def get(self, session_id: str) -> SessionInfo | None:
        """What is told about a session, ended ones too; None if there is none."""
        session = self._cache.get(session_id)
        if session is not None:
            return session.info
        return None if name_problem(session_id) else await self._repository.info(session_id)

    async def list(self, limit: int = 100, offset: int = 0, active_only: bool = True) -> builtins.list[SessionInfo]:
        """A page of sessions, the one with the latest saved activity first."""
        page = await self._repository.list(limit, offset, active_only)
        held = [(info, self._cache.get(info.id)) for info in page]
        return [info if session is None or info.ended_at else session.info for info, session in held]

    async def history(self, session_id: str) -> builtins.list[dict[str, Any]]:
        """The messages in the OpenAI chat format, in order; a list of the caller's own.

        Raises:
            UnknownSession: there is no such session.
        """
        return [message.message for message in await self.messages(session_id)]

    async def messages(self, session_id: str) -> builtins.list[Message]:
        """The same with the agent, the turn and the time of each. Raises: as ``history``."""
        return list((await self._load(session_id)).messages)

    async def add_message(self, session_id: str, message: dict[str, Any], agent: str | None = None) -> Message:
        """Append a message to a session. It is in the history at once, and in the database soon; its id is its event's.

        Args:
            message: in the OpenAI chat format; it belongs to the session from here on.
            agent: who wrote it, where an agent did.

        Raises:
            UnknownSession, SessionEnded, or InvalidSession: it is no message.
        """
        added = (await self._load(session_id)).add_message(message, agent)
        await self._bus.publish(
            MessageAddedEvent(
                role=added.role,
                content_length=len(added.content),
                agent_name=added.agent,
                session_id=session_id,
                source=SOURCE,
                event_id=added.message_id,
            )
        )
        return added

    async def update(self, session_id: str, update_type: str, changes: dict[str, Any]) -> SessionInfo:
        """Change some of a session's details; ``update_type`` says in a word what it is about.

        Raises:
            UnknownSession, SessionEnded, or InvalidSession: the changes are no JSON.
        """
        session = await self._load(session_id)
        session.update(changes)
        await self._bus.publish(SessionUpdatedEvent(update_type=update_type, session_id=session_id, source=SOURCE))
        return session.info

    async def delete(self, session_id: str) -> bool:
        """End a session for good; what was said in it is kept.

        Returns:
            Whether it lived until now.

        Raises:
            UnknownSession: there is no such session.
        """
        if not await self.end(session_id, "deleted"):
            if await self.get(session_id) is None:
                raise UnknownSession(session_id)
            return False
        await self._bus.publish(SessionDeletedEvent(soft_delete=True, session_id=session_id, source=SOURCE))
        return True

    async def end(self, session_id: str, reason: str, idle_since: datetime | None = None) -> bool:
        """End a session without publishing it: for ``delete`` and for the expiry, of which one wins.

        Returns:
            Whether it ended now; with ``idle_since``, it does only if nothing has happened in it since then.
        """
        if name_problem(session_id):
            return False
        async with self._cache.lock(session_id):
            session = self._cache.get(session_id)
            if session is not None:
                await self._write(session)
            ended_at = await self._repository.end(session_id, reason, idle_since)
            if session is not None and ended_at is not None:
                session.ended_at, session.end_reason = ended_at, reason
                # What was added while the line above was written is kept as well.
                await self._write(session)
            if session is not None and (ended_at is not None or idle_since is None):
                self._cache.drop(session_id, session)
        return ended_at is not None

    async def idle(self, since: datetime, limit: int = 100) -> builtins.list[str]:
        """Living sessions in which, as far as is saved, nothing has happened since then; the longest idle first."""
        return await self._repository.idle(since, limit)

    # -- writing behind ------------------------------------------------------------------------------------------------

    def dirty(self) -> builtins.list[str]:
        """The ids of sessions that the database does not have as they are."""
        return self._cache.dirty()

    async def save_now(self, session_id: str) -> None:
        """Make durable what was said in the session until now; of a session that is not in memory everything is.

        Raises:
            DatabaseUnavailable: it is still to be saved.
        """
        session = self._cache.get(session_id)
        if session is not None and session.dirty:
            async with self._cache.lock(session_id):
                await self._write(session)

    # -- as a repository -----------------------------------------------------------------------------------------------

    async def find_by_id(self, session_id: str) -> Session | None:
        """The session that is in memory, from where every user of it has it; None if there is none."""
        session = self._cache.get(session_id)
        if session is not None or name_problem(session_id):
            return session
        async with self._cache.lock(session_id):
            session = self._cache.get(session_id)
            if session is None:
                async with self._reported("load_session", session_id):
                    session = await self._repository.find_by_id(session_id)
                if session is not None:
                    self._cache.put(session_id, session)
        return session

    async def save(self, session: Session) -> None:
        """Make a new session, or what is new in one, durable. Publishes nothing. Raises: as the repository's."""
        async with self._cache.lock(session.id):
            if session.stored:
                await self._write(session)
                return
            if self._cache.get(session.id) is not None:
                raise SessionExists(session.id)
            await self._write(session)
            self._cache.put(session.id, session)

    async def _load(self, session_id: str) -> Session:
        session = await self.find_by_id(session_id)
        if session is None:
            raise UnknownSession(session_id)
        return session

    async def _write(self, session: Session) -> None:
        """Save what is to be saved; the caller holds the lock."""
        while session.dirty:
            try:
                async with self._reported("save_session", session.id):
                    alone = await self._repository.save(session)
            except UnknownSession:
                self._cache.forget(session.id)
                raise
            if not alone:
                # Another process has written to it as well: what it wrote is read when the session is next used.
                self._cache.drop(session.id, session)

    @asynccontextmanager
    async def _reported(self, operation: str, session_id: str) -> AsyncIterator[None]:
        began = perf_counter()
        yield
        if self._report_queries:
            duration = (perf_counter() - began) * 1000
            await self._bus.publish(
                DatabaseQueryExecutedEvent(
                    operation=operation, duration_ms=duration, session_id=session_id, source=SOURCE
                )
            )
