"""MultiAgentOrchestrator: the runtime's front. Streams turns, one a session at a time, and continues those that
waited."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from agent_runtime.events.correlation import EventCorrelation, new_correlation_id
from agent_runtime.hitl.decisions import Status
from agent_runtime.hitl.errors import HITLError, ManagerStopped
from agent_runtime.hitl.models import Approval
from agent_runtime.orchestrator.chunks import Chunk
from agent_runtime.orchestrator.services import Services
from agent_runtime.orchestrator.turn import Turn, TurnFailed, describe
from agent_runtime.sessions.errors import SessionsError

logger = logging.getLogger("agent_runtime.orchestrator")

ROOM = 256
RECOVERED = 10_000
DONE = Chunk("done", metadata={"status": "completed"})

Work = Callable[[Turn], Awaitable[None]]


class SessionBusy(Exception):
    """The session is in the middle of a turn, or waits for somebody; the message says for what."""


class MultiAgentOrchestrator:
    """Takes messages and decisions for sessions.

    A turn runs in a task of its own. What streams it only reads from a bounded queue: a client that leaves cancels
    the task, and the turn is recorded as cancelled.

    Args:
        services: what it works with.
    """

    def __init__(self, services: Services) -> None:
        self._with = services
        self._running: dict[str, asyncio.Task[None]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._streaming: set[str] = set()
        self._stopping = False

    # -- for clients ---------------------------------------------------------------------------------------------------

    async def user_message(
        self, session_id: str, content: str, agent_type: str | None = None, correlation_id: str | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """The chunks of a turn. An unknown session begins with it.

        Args:
            agent_type: who should take it; routed by default.
            correlation_id: of the turn; fresh by default.

        Raises:
            SessionBusy: before the first chunk. LookupError: there is no such agent. SessionsError.
        """
        if agent_type is not None:
            self._with.router.get(agent_type)
        await self._refuse_if_busy(session_id)
        await self._begin_turn(correlation_id)
        await self._with.sessions.ensure(session_id)
        return self._stream(session_id, lambda turn: turn.message(content, agent_type))

    async def tool_result(
        self, session_id: str, call_id: str, result: str | None, error: str | None
    ) -> AsyncGenerator[Chunk, None]:
        """The chunks of what follows from a result of a tool that the client ran. Raises: LookupError for no such
        session."""
        await self._known(session_id)
        return self._stream(session_id, lambda turn: turn.remote_result(call_id, result, error))

    async def switch(
        self, session_id: str, agent_type: str, reason: str = "", correlation_id: str | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """The chunks of a switch. Raises: LookupError for an unknown session or agent, SessionBusy."""
        self._with.router.get(agent_type)
        await self._known(session_id)
        await self._refuse_if_busy(session_id)
        await self._begin_turn(correlation_id)
        return self._stream(session_id, lambda turn: turn.switch(agent_type, reason))

    async def decision(
        self,
        session_id: str,
        call_id: str,
        decision: str,
        *,
        decided_by: str,
        modified_arguments: dict[str, Any] | None = None,
        feedback: str | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Take a decision, and the chunks of what follows from it. Raises: as ``HITLManager.decide``."""
        waiting = await self._with.hitl.find(call_id, session_id)
        key = call_id if waiting is None else waiting.id
        self._streaming.add(key)
        try:
            approval = await self._with.hitl.decide(
                call_id,
                decision,
                decided_by=decided_by,
                session_id=session_id,
                modified_arguments=modified_arguments,
                feedback=feedback,
            )
        except BaseException:
            self._streaming.discard(key)
            raise
        return self._stream(session_id, lambda turn: turn.decided(approval), approval)

    async def agents_now(self, session_id: str) -> str:
        """Who has the session. Raises: LookupError for no such session."""
        return (await self._with.contexts.get(session_id)).current_agent

    # -- running -------------------------------------------------------------------------------------------------------

    async def _stream(
        self, session_id: str, work: Work, approval: Approval | None = None
    ) -> AsyncGenerator[Chunk, None]:
        pipe = _Pipe()
        task = asyncio.create_task(self._run(session_id, work, pipe.put, approval))
        task.add_done_callback(lambda _: pipe.close())
        try:
            while (chunk := await pipe.get()) is not None:
                yield chunk
            if task.cancelled():
                yield Chunk("error", error="the service is stopping", metadata={"error_type": "stopping"})
            yield DONE
        finally:
            if approval is not None:
                self._streaming.discard(approval.id)
            if not task.done():
                task.cancel()
            await asyncio.wait((task,))

    async def _run(
        self,
        session_id: str,
        work: Work,
        emit: Callable[[Chunk], Awaitable[None]],
        approval: Approval | None = None,
    ) -> None:
        """One turn, or its continuation; whatever goes wrong is a chunk."""
        if approval is not None:
            EventCorrelation.set_correlation_id(approval.correlation_id)
        lock = self._locks.setdefault(session_id, asyncio.Lock())
        try:
            async with lock:
                task = asyncio.current_task()
                assert task is not None
                self._running[session_id] = task
                try:
                    await work(Turn(self._with, session_id, emit))
                finally:
                    self._running.pop(session_id, None)
            await self._watch_pending(session_id)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            error_type, message = describe(error)
            if isinstance(error, SessionsError | HITLError | LookupError):
                error_type, message = "refused", str(error)
            elif error_type == "internal":
                logger.exception("a turn of session %s failed", session_id)
            await emit(Chunk("error", error=message, metadata={"error_type": error_type}))
        finally:
            if not lock.locked() and not lock._waiters:
                self._locks.pop(session_id, None)

    async def _begin_turn(self, wanted: str | None) -> None:
        """Make a turn's correlation id current: the one wanted, unless another turn has it (a trace may hold several
        requests)."""
        if wanted is not None:
            taken = await asyncio.to_thread(self._with.bus.store.query, correlation_id=wanted, limit=1)
            wanted = None if taken else wanted
        EventCorrelation.set_correlation_id(wanted or new_correlation_id())
        EventCorrelation.set_causation_id(None)

    async def _known(self, session_id: str) -> None:
        if await self._with.sessions.get(session_id) is None:
            raise LookupError(f"there is no session {session_id[:80]}")

    async def _refuse_if_busy(self, session_id: str) -> None:
        lock = self._locks.get(session_id)
        if lock is not None and lock.locked():
            raise SessionBusy("this session is in the middle of a turn; send the message when that is done")
        pending = await self._with.hitl.pending(session_id)
        if pending:
            calls = ", ".join(approval.call_id for approval in pending)
            raise SessionBusy(f"this session waits for a decision on {calls}")

    # -- what waited ---------------------------------------------------------------------------------------------------

    async def _watch_pending(self, session_id: str) -> None:
        for approval in await self._with.hitl.pending(session_id):
            self._watch(approval)

    def _watch(self, approval: Approval) -> None:
        """Continue the turn when the approval is decided, unless a stream does."""
        if approval.id in self._watched or self._stopping:
            return
        task = asyncio.create_task(self._continue_after(approval))
        self._watched[approval.id] = task
        task.add_done_callback(lambda _: self._watched.pop(approval.id, None))

    async def _continue_after(self, approval: Approval) -> None:
        try:
            decided = await self._with.hitl.wait(approval.id)
            # Whoever sent the decision over a stream wants to see what follows from it.
            while approval.id in self._streaming:
                await asyncio.sleep(0.05)
            await self._run(decided.session_id, lambda turn: turn.decided(decided), _nowhere, decided)
        except ManagerStopped:
            pass
        except Exception:
            logger.exception("session %s could not go on after its approval", approval.session_id)

    async def recover(self) -> None:
        """After a start: watch what is pending, go on with what was decided, end what a crash interrupted."""
        for approval in await self._with.hitl.pending():
            self._watch(approval)
        sessions = await self._with.sessions.list(limit=RECOVERED, active_only=True)
        for info in sessions:
            try:
                await self._recover(info.id)
            except Exception:
                logger.exception("session %s could not be recovered", info.id)

    async def _recover(self, session_id: str) -> None:
        turn = Turn(self._with, session_id, _nowhere)
        started = await turn.open_run()
        if started is None:
            return
        waits = False
        for call_id in await turn.unanswered():
            approval = await self._with.hitl.find(call_id, session_id)
            if approval is not None and approval.status == Status.PENDING:
                waits = True
            elif approval is not None and not turn.was_started(call_id):
                waits = True
                self._watch(approval)
            elif approval is None and turn.tool_of(call_id) in self._with.remote_tools:
                waits = True
        if not waits:
            await turn.interrupted()

    async def stop(self) -> None:
        """Cancel what runs, recording that, and stop watching."""
        self._stopping = True
        tasks = [*self._running.values(), *self._watched.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)


async def _nowhere(_: Chunk) -> None:
    """Nobody listens."""


class _Pipe:
    """Chunks on their way from a turn to the one who reads them, a bounded number at a time."""

    def __init__(self) -> None:
        self._chunks: deque[Chunk] = deque()
        self._closed = False
        self._ready = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, chunk: Chunk) -> None:
        """Hand a chunk over, as soon as there is room."""
        while len(self._chunks) >= ROOM:
            self._room.clear()
            await self._room.wait()
        self._chunks.append(chunk)
        self._ready.set()

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._ready.set()

    async def get(self) -> Chunk | None:
        """The next chunk; None after the last."""
        while not self._chunks:
            if self._closed:
                return None
            self._ready.clear()
            await self._ready.wait()
        self._room.set()
        return self._chunks.popleft()


__all__ = ["MultiAgentOrchestrator", "SessionBusy", "TurnFailed"]
