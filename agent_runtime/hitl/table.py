"""The statements on the table of approvals. Each changes rows in one UPDATE that says which state it starts from, so of
any number that run at once, in any number of processes, one wins."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Select, or_, select, update
from sqlalchemy.exc import IntegrityError

from agent_runtime.hitl.decisions import Decision, Status
from agent_runtime.hitl.models import Approval
from agent_runtime.sessions.database import Database

# Who decides what nobody decided.
NOBODY = "timeout"


class ApprovalTable:
    """Rows in and out. Times are aware datetimes; ``now`` is the caller's.

    Args:
        database: migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, approval: Approval) -> bool:
        """Keep a new approval, durably; False if its call in its session is pending already."""
        try:
            async with self._database.write() as session:
                session.add(approval)
        except IntegrityError:
            return False
        return True

    async def get(self, approval_id: str) -> Approval | None:
        """The approval of that id."""
        async with self._database.read() as session:
            return await session.get(Approval, approval_id)

    async def pending(self, session_id: str | None, now: datetime) -> list[Approval]:
        """Those that can be decided, oldest first; of one session, or of all."""
        return await self._all(_within(_decidable(now), session_id))

    async def addressed(self, key: str, session_id: str | None, now: datetime) -> list[Approval]:
        """Those that can be decided and go by ``key``, an approval's id or a call id."""
        return await self._all(_within(_decidable(now).where(_goes_by(key)), session_id))

    async def latest(self, key: str, session_id: str | None) -> Approval | None:
        """The newest that goes by ``key``, in whatever state."""
        newest = select(Approval).where(_goes_by(key)).order_by(Approval.requested_at.desc(), Approval.id.desc())
        found = await self._all(_within(newest, session_id).limit(1))
        return found[0] if found else None

    async def decide(
        self, approval: Approval, decision: Decision, decided_by: str, now: datetime
    ) -> tuple[Approval | None, bool]:
        """Take a decision on ``approval`` as it was read; the row as it is now, and whether the decision was taken."""
        statement = (
            update(Approval)
            .where(
                Approval.id == approval.id,
                Approval.status == Status.PENDING,
                Approval.expires_at > now,
                Approval.arguments_hash == approval.arguments_hash,
            )
            .values(
                status=decision.status,
                decided_at=now,
                decided_by=decided_by,
                modified_arguments=decision.modified_arguments,
                feedback=decision.feedback,
            )
            .returning(Approval)
        )
        async with self._database.write() as session:
            decided = await session.scalar(statement)
            return (decided, True) if decided is not None else (await session.get(Approval, approval.id), False)

    async def expire(self, now: datetime) -> None:
        """End all whose time is up; their end is their deadline, however late it is noticed."""
        due = (Approval.status == Status.PENDING) & (Approval.expires_at <= now)
        if await self._all(select(Approval).where(due).limit(1)):
            async with self._database.write() as session:
                await session.execute(
                    update(Approval)
                    .where(due)
                    .values(status=Status.EXPIRED, decided_at=Approval.expires_at, decided_by=NOBODY),
                    execution_options={"synchronize_session": False},
                )

    async def unannounced(self, after: str, limit: int) -> list[Approval]:
        """The outbox: approvals with ids above ``after`` whose events may not be in the event store."""
        return await self._all(
            select(Approval)
            .where(Approval.announced != Approval.status, Approval.id > after)
            .order_by(Approval.id)
            .limit(limit)
        )

    async def mark_announced(self, approval: Approval) -> None:
        """The events of ``approval`` as it was read are in the event store."""
        async with self._database.write() as session:
            await session.execute(
                update(Approval)
                .where(Approval.id == approval.id, Approval.status == approval.status)
                .values(announced=approval.status),
                execution_options={"synchronize_session": False},
            )

    async def settled(self, approval_ids: Sequence[str]) -> list[Approval]:
        """Those of ``approval_ids`` that are final and announced."""
        return await self._all(
            select(Approval).where(
                Approval.id.in_(approval_ids),
                Approval.status != Status.PENDING,
                Approval.announced == Approval.status,
            )
        )

    async def _all(self, statement: Select[Approval]) -> list[Approval]:
        async with self._database.read() as session:
            return list(await session.scalars(statement))


def _decidable(now: datetime) -> Select[Approval]:
    return (
        select(Approval)
        .where(Approval.status == Status.PENDING, Approval.expires_at > now)
        .order_by(Approval.requested_at, Approval.id)
    )


def _within(statement: Select[Approval], session_id: str | None) -> Select[Approval]:
    return statement if session_id is None else statement.where(Approval.session_id == session_id)


def _goes_by(key: str) -> ColumnElement[bool]:
    return or_(Approval.id == key, Approval.call_id == key)
