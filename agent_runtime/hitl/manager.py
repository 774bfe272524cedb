"""HITLManager: asks people about calls, takes their decisions once, and refuses what nobody decides in time.

The row in the database is the truth, and it is written first; events are made from it afterwards. A crash in between
leaves the row in the outbox, and whoever looks there next, this process after its restart or another, publishes them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from agent_runtime.events.base_event import new_event_id
from agent_runtime.events.correlation import current, new_correlation_id
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.fields import name_problem
from agent_runtime.hitl.announcements import events_of
from agent_runtime.hitl.arguments import arguments_hash, plain_object
from agent_runtime.hitl.decisions import Status, read_decision
from agent_runtime.hitl.errors import (
    AlreadyDecided,
    AmbiguousCall,
    ApprovalExpired,
    ArgumentsMismatch,
    CallPending,
    HITLError,
    InvalidDecision,
    ManagerStopped,
    UnknownApproval,
)
from agent_runtime.hitl.models import Approval
from agent_runtime.hitl.outbox import PAGE, Outbox
from agent_runtime.hitl.policy import DEFAULT_POLICY, ApprovalPolicy
from agent_runtime.hitl.table import ApprovalTable
from agent_runtime.hitl.waiters import Waiters
from agent_runtime.sessions.database import Database

logger = logging.getLogger("agent_runtime.hitl")

INSERT_ATTEMPTS = 5
STOP_SECONDS = 1.0


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)


class HITLManager:
    """Approvals, from the question to the answer.

    Args:
        bus: where their events are published.
        database: where they are kept; migrated.
        policy: which calls need one.
        timeout_seconds: how long a person has to decide.
        poll_seconds: how often deadlines, and decisions that other processes made, are looked for.
        now: the clock that deadlines are held against.
    """

    def __init__(
        self,
        bus: EventBus,
        database: Database,
        policy: ApprovalPolicy = DEFAULT_POLICY,
        timeout_seconds: float = 300.0,
        *,
        poll_seconds: float = 0.5,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds: must be more than 0, got {timeout_seconds}")
        self.policy = policy
        self._table = ApprovalTable(database)
        self._outbox = Outbox(bus, self._table)
        self._timeout = timedelta(seconds=timeout_seconds)
        self._poll_seconds = poll_seconds
        self._now = now
        self._waiters = Waiters()
        self._stopping = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    # -- asking --------------------------------------------------------------------------------------------------------

    async def request(
        self,
        *,
        session_id: str,
        call_id: str,
        tool_name: str,
        arguments: Mapping[str, Any],
        agent: str | None = None,
        reason: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        says_required: bool = True,
    ) -> Approval:
        """Ask a person. On return the question is durable, and so, unless the event store fails, are its events.

        Asked again while it is pending (after a restart, for instance), the same call gives the same approval.

        Args:
            arguments: a JSON object, copied.
            reason: why; what the policy says by default.
            correlation_id, causation_id: of the turn that asks; the context's by default.
            says_required: publish ``tool_approval_required`` as well; False where the caller has.

        Raises:
            InvalidEvent: something in the call can't be kept. CallPending: see there. DatabaseUnavailable.
        """
        context = current.get()
        plain = plain_object(arguments, "arguments")
        if reason is None:
            reason = self.policy.decide(tool_name, plain) or ""
        asked_at = self._now()
        approval = Approval(
            id=new_event_id(),
            call_id=call_id,
            session_id=session_id,
            agent=agent,
            tool_name=tool_name,
            arguments=plain,
            arguments_hash=arguments_hash(plain),
            reason=reason,
            correlation_id=correlation_id or context.correlation_id or new_correlation_id(),
            causation_id=causation_id or context.event_id,
            requested_at=asked_at,
            expires_at=asked_at + self._timeout,
            status=Status.PENDING,
            says_required=says_required,
            announced="",
        )
        events_of(approval)
        approval = await self._insert(approval)
        if approval.announced != approval.status:
            await self._outbox.publish(approval)
        return approval

    async def _insert(self, asked: Approval) -> Approval:
        """``asked``, now kept; or the approval for which that very call is waiting already."""
        for _ in range(INSERT_ATTEMPTS):
            # An earlier call of that id whose time is up must not stand in the way of this one.
            await self._table.expire(self._now())
            if await self._table.insert(asked):
                return asked
            for pending in await self._table.addressed(asked.call_id, asked.session_id, self._now()):
                if pending.call_id == asked.call_id:
                    return _same_call(pending, asked)
        raise CallPending(f"call {asked.call_id} of session {asked.session_id} is asked about again and again")

    # -- deciding ------------------------------------------------------------------------------------------------------

    async def decide(
        self,
        key: str,
        decision: str,
        *,
        decided_by: str,
        session_id: str | None = None,
        modified_arguments: Mapping[str, Any] | None = None,
        feedback: str | None = None,
        arguments_hash: str | None = None,
    ) -> Approval:
        """Take a decision. Of any number, made at once in any number of processes, exactly one is taken.

        Args:
            key: an approval's id, or the call id of one that is pending.
            decision: approve, edit, reject or feedback (a rejection that says what to do instead), in any case.
            decided_by: through whom; told to whoever comes later.
            session_id: of the call; needed where sessions share its id.
            modified_arguments: the whole arguments as they should be; with ``edit`` only.
            feedback: for the model.
            arguments_hash: of the arguments that the person saw.

        Returns:
            The approval as it is now; its ``granted_arguments`` are what the call may run with.

        Raises:
            InvalidDecision, UnknownApproval, AmbiguousCall, ArgumentsMismatch, AlreadyDecided, ApprovalExpired: nothing
                was changed. DatabaseUnavailable: nothing is known to have been.
        """
        wanted = read_decision(decision, modified_arguments, feedback)
        for where, name in (("call_id", key), ("session_id", session_id)):
            if name is not None and (problem := name_problem(name)) is not None:
                raise InvalidDecision(f"{where}: {problem}")
        approval = await self._addressed(key, session_id, arguments_hash)
        decided, was_first = await self._table.decide(approval, wanted, decided_by, self._now())
        if decided is None:
            raise UnknownApproval(f"there is no approval {approval.id} any more")
        if not was_first:
            raise _too_late(decided)
        if await self._outbox.publish(decided):
            self._waiters.wake(decided)
        return decided

    async def _addressed(self, key: str, session_id: str | None, seen_hash: str | None) -> Approval:
        waiting = await self._table.addressed(key, session_id, self._now())
        if not waiting:
            latest = await self._table.latest(key, session_id)
            if latest is None:
                where = "" if session_id is None else f" in session {session_id}"
                raise UnknownApproval(f"no approval was asked for under {key}{where}")
            raise _too_late(latest)
        if seen_hash is not None:
            waiting = [approval for approval in waiting if approval.arguments_hash == seen_hash.strip().lower()]
            if not waiting:
                raise ArgumentsMismatch(f"what waits under {key} has other arguments than were decided about")
        if len(waiting) > 1:
            raise AmbiguousCall(f"{len(waiting)} sessions wait under {key}; give session_id, or the approval's id")
        return waiting[0]

    # -- looking -------------------------------------------------------------------------------------------------------

    async def get(self, approval_id: str) -> Approval:
        """The approval of that id, as it is now.

        Raises:
            UnknownApproval: there is none.
        """
        approval = await self._table.get(approval_id)
        if approval is None:
            raise UnknownApproval(f"there is no approval {approval_id}")
        return approval

    async def find(self, key: str, session_id: str | None = None) -> Approval | None:
        """The newest approval that goes by ``key``, an approval's id or a call id, in whatever state."""
        return await self._table.latest(key, session_id)

    async def pending(self, session_id: str | None = None) -> list[Approval]:
        """What waits for a decision, oldest first; of one session, or of all."""
        return await self._table.pending(session_id, self._now())

    @property
    def waiting(self) -> int:
        """How many approvals someone in this process waits for."""
        return len(self._waiters.approval_ids)

    async def wait(self, approval_id: str) -> Approval:
        """Sleep until the approval is final and its last event is stored, whoever decides and wherever.

        The manager must have been started: decisions of other processes, and deadlines, are found by its loop.

        Raises:
            UnknownApproval: there is none of that id. ManagerStopped: the manager stops first.
        """
        if self._stopping.is_set():
            raise ManagerStopped("the service is stopping")
        # Registered before the approval is looked up, so that a decision in between is not missed.
        with self._waiters.waiting(approval_id) as decided:
            approval = await self.get(approval_id)
            return approval if approval.settled else await decided

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Publish what a crash kept back, expire what was due while the service was down, and go on doing both."""
        self._stopping.clear()
        await self._sweep_safely()
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the loop and let go of who waits. What is pending stays so, for the next start."""
        self._stopping.set()
        if self._loop is not None:
            # A round that waits for a store that does not answer is broken off: the outbox remembers.
            await asyncio.wait((self._loop,), timeout=STOP_SECONDS)
            self._loop.cancel()
            self._loop = None
        self._waiters.dismiss()

    async def sweep(self) -> None:
        """One round of the loop: expire what is due, publish what is in the outbox, wake who waits.

        Raises:
            DatabaseUnavailable: the rest is left for the next round.
        """
        await self._table.expire(self._now())
        async for approval in self._outbox.flush():
            if approval.status != Status.PENDING:
                self._waiters.wake(approval)
        waited = self._waiters.approval_ids
        for start in range(0, len(waited), PAGE):
            for approval in await self._table.settled(waited[start : start + PAGE]):
                self._waiters.wake(approval)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(self._poll_seconds):
                    await self._stopping.wait()
            except TimeoutError:
                await self._sweep_safely()

    async def _sweep_safely(self) -> None:
        try:
            await self.sweep()
        except Exception as error:
            logger.error("approvals could not be looked through, it is tried again: %r", error)


def _too_late(approval: Approval) -> HITLError:
    if approval.decided_by is None or approval.decided_at is None or approval.status == Status.EXPIRED:
        return ApprovalExpired(approval.expires_at)
    return AlreadyDecided(approval.status, approval.decided_by, approval.decided_at)


def _same_call(pending: Approval, asked: Approval) -> Approval:
    if (pending.tool_name, pending.arguments_hash) != (asked.tool_name, asked.arguments_hash):
        raise CallPending(f"call {asked.call_id} of session {asked.session_id} waits for a decision about another call")
    return pending
