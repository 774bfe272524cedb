"""The chunks of a turn on their way from its task to the one who reads them."""

from __future__ import annotations

import asyncio
from collections import deque

from agent_runtime.orchestrator.chunks import Chunk

ROOM = 256
DONE = Chunk("done", metadata={"status": "completed"})
STOPPED = Chunk("error", error="the service is stopping", metadata={"error_type": "cancelled"})


class Pipe:
    """Chunks, a bounded number at a time."""

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


class Stream:
    """An async iterator over the chunks of a turn; the last is ``done``, also after an error.

    Close it, read to its end or not: ``contextlib.aclosing``. Closed before its end, it cancels the turn.

    Args:
        pipe: what the turn puts its chunks into. task: the turn.

    Attributes:
        task: as given.
    """

    def __init__(self, pipe: Pipe, task: asyncio.Task[None]) -> None:
        self._pipe = pipe
        self.task = task
        self._last = [DONE]
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._last.append(STOPPED)
        self._pipe.close()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Chunk:
        """The next chunk."""
        chunk = await self._pipe.get()
        if chunk is not None:
            return chunk
        if self._last:
            return self._last.pop()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Cancel the turn, if it is not done, and wait until that is recorded."""
        if not self.task.done():
            self.task.cancel()
            await asyncio.wait((self.task,))
