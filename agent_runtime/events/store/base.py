"""What a store of events must do. All of it is synchronous and may be called from any thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agent_runtime.events.base_event import BaseEvent


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that one handler, or the span exporter, gave up on.

    Attributes:
        letter_id: 0 until it is stored.
        queue: ``handlers`` or ``spans``.
        consumer: the handler's name, or the exporter's.
        event_id: the event concerned; for a refused span the event that opened it.
        payload: what would have been delivered, as JSON.
        error: why it was given up.
        attempts: how often it was tried.
        failed_ns: when it was given up, nanoseconds since 1970.
    """

    queue: str
    consumer: str
    event_id: str
    payload: str
    error: str
    attempts: int
    failed_ns: int
    letter_id: int = 0


class EventStore(Protocol):
    """An append-only, ordered record of events, with checkpoints and dead letters beside it.

    Attributes:
        blocking: an append waits for a disk or a server, so the bus gives it to its writer thread.
    """

    blocking: bool

    def append(self, events: Sequence[BaseEvent]) -> list[int]:
        """Commit ``events`` together; sets ``position`` and ``recorded_ns`` on each that is new.

        Returns:
            A position for each event, 0 for one whose ``event_id`` is stored already.

        Raises:
            StoreError: nothing of the batch was committed, and another try may succeed. Any other exception: nothing
            was
                committed because one of the events can't be.
        """

    def read(self, after: int, limit: int) -> list[BaseEvent]:
        """At most ``limit`` events behind position ``after``, in order; fewer where they are large, but never none."""

    def query(
        self,
        *,
        session_id: str | None = None,
        correlation_id: str | None = None,
        event_types: Sequence[str] | None = None,
        after: int = 0,
        limit: int = 100,
        newest: bool = False,
    ) -> list[BaseEvent]:
        """At most ``limit`` events that match every filter given, in order; the last ones if ``newest``."""

    def get(self, event_id: str) -> BaseEvent | None:
        """The event of that id."""

    def last_position(self) -> int:
        """The position of the newest event; 0 for an empty store."""

    def watermark(self) -> tuple[int, int]:
        """``(position, now_ns)``: every event recorded up to ``now_ns`` stands at or before ``position``, and none will
        follow."""

    def size_bytes(self) -> int:
        """How much it holds, in bytes on disk; 0 for a store in memory."""

    def save_checkpoint(self, name: str, position: int, state: bytes) -> None:
        """Keep ``state`` of the projection ``name`` as it stands at ``position``, in place of what was kept before."""

    def load_checkpoint(self, name: str) -> tuple[int, bytes] | None:
        """What ``save_checkpoint`` kept last."""

    def add_dead_letter(self, letter: DeadLetter) -> int:
        """Keep ``letter``; returns its id."""

    def add_dead_letters(self, letters: Sequence[DeadLetter]) -> list[int]:
        """Keep ``letters`` together; returns their ids."""

    def dead_letters(self, limit: int = 100, after: int = 0) -> list[DeadLetter]:
        """At most ``limit`` dead letters with ids above ``after``, oldest first."""

    def count_dead_letters(self) -> dict[str, int]:
        """How many dead letters there are, by queue."""

    def remove_dead_letter(self, letter_id: int) -> bool:
        """Drop one; False if there is none of that id."""

    def close(self) -> None:
        """Release what is held; a store on disk or on a server refuses further calls with StoreError. Closing twice is
        fine."""
