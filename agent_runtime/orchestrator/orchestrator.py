"""MultiAgentOrchestrator: the runtime's front. Streams turns, one a session at a time, and continues those that
waited."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

from agent_runtime.events.correlation import EventCorrelation, new_correlation_id
from agent_runtime.hitl.errors import HITLError
from agent_runtime.hitl.models import Approval
from agent_runtime.orchestrator.chunks import Chunk
from agent_runtime.orchestrator.records import Records
from agent_runtime.orchestrator.recovery import Recovery, sessions_with_open_runs
from agent_runtime.orchestrator.services import Services
from agent_runtime.orchestrator.stream import Pipe, Stream
from agent_runtime.orchestrator.turn import Turn, TurnFailed, describe
from agent_runtime.sessions.cache import Locks
from agent_runtime.sessions.context import AgentContext
from agent_runtime.sessions.errors import DatabaseUnavailable, SessionEnded, SessionsError, UnknownSession

logger = logging.getLogger("agent_runtime.orchestrator")

STOP_SECONDS = 2.0
RETRY_SECONDS = 1.0

Emit = Callable[[Chunk], Awaitable[None]]
Work = Callable[[Turn], Awaitable[None]]


class SessionBusy(Exception):
    """The session is in the middle of a turn, or waits for somebody; the message says for what."""


class NotWaiting(LookupError):
    """Nobody waits for a result of that call."""


class MultiAgentOrchestrator:
    """Takes messages and decisions for sessions.

    A turn runs in a task of its own. What streams it only reads: a client that leaves cancels the task, and the turn
    is recorded as cancelled.

    Args:
        services: what it works with.
    """

    def __init__(self, services: Services) -> None:
        self._with = services
        self._turns: set[asyncio.Task[None]] = set()
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._streamed: dict[str, asyncio.Task[None]] = {}
        # One turn a session: whoever holds its lock.
        self._locks = Locks()
        self._deciding = Locks()
        self._begun: set[str] = set()
        self._stopping = False

    # -- for clients ---------------------------------------------------------------------------------------------------

    async def user_message(
        self, session_id: str, content: str, agent_type: str | None = None, correlation_id: str | None = None
    ) -> Stream:
        """The chunks of a turn. An unknown session begins with it.

        Args:
            agent_type: who should take it; routed by default.
            correlation_id: of the turn; fresh by default, and where another turn has that one.

        Raises:
            SessionBusy: nothing was changed. LookupError: there is no such agent. SessionsError.
        """
        if agent_type is not None:
            self._with.router.get(agent_type)
        return await self._begin(session_id, correlation_id, lambda turn: turn.message(content, agent_type))

    async def switch(
        self, session_id: str, agent_type: str, reason: str = "", correlation_id: str | None = None
    ) -> Stream:
        """The chunks of a switch. Raises: LookupError for an unknown agent, SessionBusy, SessionsError."""
        self._with.router.get(agent_type)
        await self._check_known(session_id)
        return await self._begin(session_id, correlation_id, lambda turn: turn.switch(agent_type, reason))

    async def tool_result(self, session_id: str, call_id: str, result: str | None, error: str | None) -> Stream:
        """The chunks of what follows from a result of a tool that the client ran. Raises: NotWaiting, SessionsError."""
        await self._check_known(session_id)
        if not await Turn(self._with, session_id, _nowhere).waits_for_result(call_id):
            raise NotWaiting(f"no result of call {call_id} is waited for")
        return self._start(session_id, lambda turn: turn.remote_result(call_id, result, error))

    async def decision(
        self,
        session_id: str,
        call_id: str,
        decision: str,
        *,
        decided_by: str,
        modified_arguments: dict[str, Any] | None = None,
        feedback: str | None = None,
    ) -> Stream:
        """Take a decision; the chunks of what follows from it. Raises: as ``HITLManager.decide``."""
        asked = await self._with.hitl.find(call_id, session_id)
        # Who decides over a stream wants to see what follows; whoever watches waits at this lock meanwhile.
        async with self._deciding(call_id if asked is None else asked.id):
            approval = await self._with.hitl.decide(
                call_id,
                decision,
                decided_by=decided_by,
                session_id=session_id,
                modified_arguments=modified_arguments,
                feedback=feedback,
            )
            stream = self._start(session_id, lambda turn: turn.decided(approval))
            self._streamed[approval.id] = stream.task
            stream.task.add_done_callback(lambda _: self._streamed.pop(approval.id, None))
            return stream

    async def pass_on(self, session_id: str, agent_type: str, reason: str = "") -> AgentContext:
        """Pass a session on without a turn; a run that is under way goes on. Raises: as ``request_switch``."""
        EventCorrelation.set_correlation_id(new_correlation_id())
        EventCorrelation.set_causation_id(None)
        return await self._with.contexts.request_switch(session_id, agent_type, reason)

    # -- beginning -----------------------------------------------------------------------------------------------------

    async def _begin(self, session_id: str, correlation_id: str | None, work: Work) -> Stream:
        """Begin a turn in a session in which there is none."""
        lock = self._locks(session_id)
        if lock.locked() or self._stopping:
            raise SessionBusy("this session is in the middle of a turn; send the message when that is done")
        await lock.acquire()
        try:
            correlation_id = await self._fresh(correlation_id)
            EventCorrelation.set_correlation_id(correlation_id)
            EventCorrelation.set_causation_id(None)
            info = await self._with.sessions.ensure(session_id)
            if not info.active:
                raise SessionEnded(session_id, info.end_reason or "deleted")
            await self._check_waits_for_nothing(session_id)
        except BaseException:
            lock.release()
            raise
        self._begun.add(correlation_id)
        return self._start(session_id, work, lock, correlation_id)

    async def _fresh(self, wanted: str | None) -> str:
        """A turn's correlation id: the one wanted, unless another turn has it (a trace may hold several requests)."""
        if wanted is None or wanted in self._begun:
            return new_correlation_id()
        taken = await asyncio.to_thread(self._with.bus.store.query, correlation_id=wanted, limit=1)
        return new_correlation_id() if taken else wanted

    async def _check_known(self, session_id: str) -> None:
        if await self._with.sessions.get(session_id) is None:
            raise UnknownSession(session_id)

    async def _check_waits_for_nothing(self, session_id: str) -> None:
        records = Records(self._with, session_id)
        if await records.open_run() is None:
            return
        calls = ", ".join(await records.unanswered())
        if calls:
            raise SessionBusy(f"this session waits for a decision on, or the result of, {calls}")
        # It could not be ended when it failed.
        await Recovery(self._with, session_id).take_up()

    def _start(self, session_id: str, work: Work, held: asyncio.Lock | None = None, correlation_id: str = "") -> Stream:
        """Run a turn in a task of its own; the lock that is ``held`` for it is released when that ends."""
        pipe = Pipe()
        task = asyncio.create_task(self._run(session_id, work, pipe.put, held))
        self._turns.add(task)

        def ended(_: asyncio.Task[None]) -> None:
            self._turns.discard(task)
            self._begun.discard(correlation_id)
            if held is not None:
                held.release()

        task.add_done_callback(ended)
        return Stream(pipe, task)

    async def _run(self, session_id: str, work: Work, emit: Emit, held: asyncio.Lock | None = None) -> None:
        """One turn, or its continuation; whatever goes wrong is a chunk."""
        turn = Turn(self._with, session_id, emit)
        try:
            if held is not None:
                await work(turn)
            else:
                async with self._locks(session_id):
                    await work(turn)
        except Exception as error:
            error_type, message = describe(error)
            if isinstance(error, DatabaseUnavailable):
                logger.error("a turn of session %s failed: %s", session_id, error)
            elif error_type == "internal" and isinstance(error, SessionsError | HITLError):
                error_type, message = "refused", str(error)
            elif error_type == "internal":
                logger.exception("a turn of session %s failed", session_id)
            await emit(Chunk("error", error=message, metadata={"error_type": error_type}))
        finally:
            for approval in turn.asked:
                self._watch(approval)

    # -- what waited ---------------------------------------------------------------------------------------------------

    def _watch(self, approval: Approval) -> None:
        """Continue the turn when the approval is decided, unless a stream does."""
        if approval.id in self._watched or self._stopping:
            return
        # Outside of whatever asked: its span ends with its request, and may have ended long since.
        task = asyncio.create_task(self._continue_after(approval), context=Context())
        self._watched[approval.id] = task
        task.add_done_callback(lambda _: self._watched.pop(approval.id, None))

    async def _continue_after(self, approval: Approval) -> None:
        while True:
            try:
                decided = await self._with.hitl.wait(approval.id)
                break
            except DatabaseUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
            except HITLError:
                return
        async with self._deciding(approval.id):
            streamed = self._streamed.get(approval.id)
        if streamed is not None:
            await asyncio.wait((streamed,))
        await self._run(decided.session_id, lambda turn: turn.decided(decided), _nowhere)

    async def recover(self) -> None:
        """After a start: watch what is pending, go on with what was decided, end what a crash interrupted."""
        for session_id in await sessions_with_open_runs(self._with.bus.store):
            try:
                for approval in await Recovery(self._with, session_id).take_up():
                    self._watch(approval)
            except Exception as error:
                logger.error("session %s could not be recovered: %r", session_id, error)

    async def stop(self) -> None:
        """Cancel what runs, recording that, and stop watching."""
        self._stopping = True
        tasks = [*self._turns, *self._watched.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)


async def _nowhere(_: Chunk) -> None:
    """Nobody listens."""


__all__ = ["MultiAgentOrchestrator", "NotWaiting", "SessionBusy", "TurnFailed"]
