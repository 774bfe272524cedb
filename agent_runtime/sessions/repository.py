"""Sessions in and out of the database. Nothing here publishes or caches."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from agent_runtime.sessions.database import Database
from agent_runtime.sessions.errors import SessionExists, UnknownSession
from agent_runtime.sessions.models import MessageRow, SessionRow
from agent_runtime.sessions.session import Message, Session, SessionInfo


class SessionRepository:
    """The tables ``sessions`` and ``messages``.

    Args:
        database: migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_by_id(self, session_id: str) -> Session | None:
        """The session with all its messages, or None."""
        async with self._database.read() as session:
            row = await session.get(SessionRow, session_id)
            if row is None:
                return None
            order = select(MessageRow).where(MessageRow.session_id == session_id).order_by(MessageRow.position)
            messages = [_message(found) for found in await session.scalars(order)]
        return Session(
            **{name: getattr(row, name) for name in _OWN},
            messages=messages,
            saved=len(messages),
            stored=True,
        )

    async def info(self, session_id: str) -> SessionInfo | None:
        """What is told about a session, without its messages; None if there is none."""
        async with self._database.read() as session:
            row = await session.get(SessionRow, session_id)
        return None if row is None else _info(row)

    async def save(self, session: Session) -> bool:
        """Make everything of ``session`` that is new durable: all of it, or nothing.

        It may be repeated: a message is kept once, also where nobody knows whether an earlier attempt succeeded. What
        others have appended meanwhile stays before it.

        Returns:
            Whether the database has exactly what ``session`` has; False if others have written as well.

        Raises:
            SessionExists: it is new here, but not there. UnknownSession: it is gone. DatabaseUnavailable.
        """
        messages = session.messages[session.saved :]
        changes = dict(session.changes)
        if not session.stored:
            await self._insert(session, messages)
            alone = True
        else:
            alone = await self._append(session, messages, changes)
        session.stored = True
        session.saved += len(messages)
        for name, value in changes.items():
            # What was changed once more while it was written stays to be written.
            if name in session.changes and session.changes[name] is value:
                del session.changes[name]
        return alone

    async def _insert(self, session: Session, messages: Sequence[Message]) -> None:
        row = SessionRow(**{name: getattr(session, name) for name in _OWN}, message_count=len(messages))
        try:
            async with self._database.write() as writer:
                writer.add(row)
                await writer.flush()
                writer.add_all(_rows(session.id, messages, 0))
        except IntegrityError:
            raise SessionExists(session.id) from None

    async def _append(self, session: Session, messages: Sequence[Message], changes: dict[str, object]) -> bool:
        async with self._database.write() as writer:
            row = await writer.get(SessionRow, session.id, with_for_update=True)
            if row is None:
                raise UnknownSession(session.id)
            fresh, there = messages, row.message_count
            if there != session.saved:
                known = await _known(writer, session.id, messages)
                fresh = [message for message in messages if message.message_id not in known]
            writer.add_all(_rows(session.id, fresh, there))
            row.message_count = there + len(fresh)
            if changes:
                row.details = {**row.details, **changes}
            row.last_activity_at = max(row.last_activity_at, session.last_activity_at)
            if row.ended_at is not None:
                session.ended_at, session.end_reason = row.ended_at, row.end_reason
            return row.message_count == session.saved + len(messages)

    async def end(self, session_id: str, reason: str, idle_since: datetime | None = None) -> datetime | None:
        """Let a session end, once.

        Args:
            idle_since: only if nothing has happened in it since then.

        Returns:
            When it ended; None if it had ended before, was not idle, or does not exist.
        """
        now = datetime.now(UTC)
        change = update(SessionRow).where(SessionRow.id == session_id, SessionRow.ended_at.is_(None))
        if idle_since is not None:
            change = change.where(SessionRow.last_activity_at < idle_since)
        async with self._database.write() as session:
            ended = await session.scalar(change.values(ended_at=now, end_reason=reason).returning(SessionRow.id))
        return None if ended is None else now

    async def list(self, limit: int, offset: int, active_only: bool) -> builtins.list[SessionInfo]:
        """A page of sessions, the one with the latest activity first."""
        query = select(SessionRow).order_by(SessionRow.last_activity_at.desc(), SessionRow.id)
        if active_only:
            query = query.where(SessionRow.ended_at.is_(None))
        async with self._database.read() as session:
            return [_info(row) for row in await session.scalars(query.limit(limit).offset(offset))]

    async def idle(self, since: datetime, limit: int) -> builtins.list[str]:
        """The ids of living sessions in which nothing has happened since then, the longest idle first."""
        query = (
            select(SessionRow.id)
            .where(SessionRow.ended_at.is_(None), SessionRow.last_activity_at < since)
            .order_by(SessionRow.last_activity_at)
            .limit(limit)
        )
        async with self._database.read() as session:
            return list(await session.scalars(query))


_OWN = (
    "id",
    "system_prompt",
    "created_by",
    "details",
    "created_at",
    "last_activity_at",
    "ended_at",
    "end_reason",
)


def _info(row: SessionRow) -> SessionInfo:
    return SessionInfo(**{name: getattr(row, name) for name in _OWN}, message_count=row.message_count)


def _message(row: MessageRow) -> Message:
    return Message(row.message_id, row.message, row.agent, row.correlation_id, row.causation_id, row.created_at)


def _rows(session_id: str, messages: Sequence[Message], after: int) -> builtins.list[MessageRow]:
    return [
        MessageRow(
            session_id=session_id,
            position=position,
            message_id=message.message_id,
            role=message.role,
            agent=message.agent,
            message=message.message,
            correlation_id=message.correlation_id,
            causation_id=message.causation_id,
            created_at=message.created_at,
        )
        for position, message in enumerate(messages, after + 1)
    ]


async def _known(session: AsyncSession, session_id: str, messages: Sequence[Message]) -> set[str]:
    """The ids of those of ``messages`` that the database has."""
    ids = [message.message_id for message in messages]
    query = select(MessageRow.message_id).where(MessageRow.session_id == session_id, MessageRow.message_id.in_(ids))
    return set(await session.scalars(query))
