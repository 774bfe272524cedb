"""Who, in this process, waits for which approval."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from agent_runtime.hitl.errors import ManagerStopped
from agent_runtime.hitl.models import Approval


class Waiters:
    """Futures by the id of the approval; any number may wait for one."""

    def __init__(self) -> None:
        self._futures: dict[str, set[asyncio.Future[Approval]]] = {}

    @property
    def approval_ids(self) -> list[str]:
        """What is waited for."""
        return list(self._futures)

    @contextmanager
    def waiting(self, approval_id: str) -> Iterator[asyncio.Future[Approval]]:
        """A future that ``wake`` resolves, while the block lasts."""
        future: asyncio.Future[Approval] = asyncio.get_running_loop().create_future()
        futures = self._futures.setdefault(approval_id, set())
        futures.add(future)
        try:
            yield future
        finally:
            futures.discard(future)
            if not futures:
                self._futures.pop(approval_id, None)

    def wake(self, approval: Approval) -> None:
        """Give ``approval``, which is final, to all who wait for it."""
        for future in self._futures.get(approval.id, ()):
            if not future.done():
                future.set_result(approval)

    def dismiss(self) -> None:
        """Let everyone go with ``ManagerStopped``."""
        for futures in self._futures.values():
            for future in futures:
                if not future.done():
                    future.set_exception(ManagerStopped("the service is stopping"))
