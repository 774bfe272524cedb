"""Saves whatever has changed, every few seconds: needs no events, and is what runs where nothing else is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from agent_runtime.events.subscribers.saving import BATCH, Save, WriteBehind, save_batches

# What has changed, by id, and what saves it.
Source = tuple[Callable[[], Iterable[str]], Save]


class TimerWriter(WriteBehind):
    """Asks each source what has changed, and has it saved. What fails has still changed the next time.

    Args:
        sources: pairs of what names the changed sessions, and what saves one of them.
        every_seconds: how often.
        batch_size: how many are written at a time.
    """

    name = "timer_writer"

    def __init__(self, sources: Sequence[Source] = (), *, every_seconds: float = 5.0, batch_size: int = BATCH) -> None:
        super().__init__(every_seconds)
        self._sources = tuple(sources)
        self._batch_size = batch_size

    @property
    def pending(self) -> int:
        """See ``WriteBehind.pending``."""
        return len(self._jobs())

    async def flush(self, everything: bool = False) -> int:
        """See ``WriteBehind.flush``: whatever has changed is due."""
        return sum(await save_batches(self._jobs(), self._batch_size))

    def _jobs(self) -> list[tuple[Save, str]]:
        return [(save, session_id) for changed, save in self._sources for session_id in changed()]
