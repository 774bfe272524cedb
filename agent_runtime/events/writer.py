"""Group commit: one thread commits together whatever is waiting, and reports what became of it."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.errors import BusClosed, StoreError
from agent_runtime.events.store.base import DeadLetter, EventStore

logger = logging.getLogger("agent_runtime.events")

COMMIT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
GROUP_BUCKETS = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0)
GROUP_EVENTS = 5_000
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
EXIT_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class Submission:
    """Events handed over together.

    Attributes:
        done: the future of who waits for the commit, or for the handlers; None where nobody waits. The writer leaves it
            alone.
        waited: their one event is published with ``wait_for_handlers``.
    """

    events: Sequence[BaseEvent]
    done: asyncio.Future[list[int]] | asyncio.Future[list[object] | None] | None = None
    waited: bool = False


Report = tuple[Submission, list[int] | Exception]


@dataclass(slots=True)
class CommitFigures:
    """What the writer has done so far: plain counts, not cumulative, the last bucket is the open one."""

    seconds: list[int] = field(default_factory=lambda: [0] * (len(COMMIT_BUCKETS) + 1))
    seconds_sum: float = 0.0
    sizes: list[int] = field(default_factory=lambda: [0] * (len(GROUP_BUCKETS) + 1))
    sizes_sum: int = 0
    failures: int = 0
    duplicates: int = 0
    lost: int = 0


class GroupCommitWriter:
    """Feeds a blocking store from one thread.

    While the store refuses to commit, those who wait for a commit are told, and may send again; what nobody waits for
    is kept and tried again until the store takes it, or the writer is stopped.

    Args:
        store: where events and dead letters go.
        report: called on the writer's thread, in store order, with what became of each submission: its positions or an
            error.

    Attributes:
        waiting: how many events are submitted and not yet taken note of with ``forget``, and dead letters not yet
            committed.
    """

    def __init__(self, store: EventStore, report: Callable[[list[Report]], None]) -> None:
        self._store = store
        self._report = report
        self._queue: deque[Submission] = deque()
        self._letters: list[DeadLetter] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stop_by: float | None = None
        self.waiting = 0
        self.figures = CommitFigures()

    def submit(self, submission: Submission) -> None:
        """Queue a submission; it is committed after all that were queued before.

        Raises:
            BusClosed: the writer was stopped.
        """
        with self._changed:
            self._check_open()
            self.waiting += len(submission.events)
            self._queue.append(submission)
            self._changed.notify()

    def submit_letter(self, letter: DeadLetter) -> None:
        """Queue a dead letter.

        Raises:
            BusClosed: the writer was stopped.
        """
        with self._changed:
            self._check_open()
            self.waiting += 1
            self._letters.append(letter)
            self._changed.notify()

    def forget(self, count: int) -> None:
        """Take note that ``count`` events have arrived where their reports went."""
        with self._changed:
            self.waiting -= count

    def stop(self, timeout: float) -> bool:
        """Commit what is queued and end the thread; False if that was not done within ``timeout`` seconds."""
        lost = self.figures.lost
        with self._changed:
            self._stop_by = time.monotonic() + timeout
            self._changed.notify()
        thread = self._thread
        if thread is None:
            return True
        atexit.unregister(self.stop)
        thread.join(timeout + 0.1)
        return not thread.is_alive() and self.figures.lost == lost

    def _check_open(self) -> None:
        if self._stop_by is not None:
            raise BusClosed("the event bus is closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="event-store-writer", daemon=True)
            self._thread.start()
            # A program that ends without closing the bus still has its events stored.
            atexit.register(self.stop, EXIT_SECONDS)

    def _run(self) -> None:
        pause = 0.0
        while True:
            with self._changed:
                if pause and self._stop_by is None:
                    self._changed.wait_for(lambda: self._stop_by is not None, pause)
                elif pause:
                    self._changed.wait(FIRST_PAUSE)
                self._changed.wait_for(lambda: self._queue or self._letters or self._stop_by is not None)
                group, letters = self._take()
            if not group and not letters:
                return
            try:
                self._commit(group)
                self._commit_letters(letters)
                pause = 0.0
            except StoreError as error:
                pause = min(LONGEST_PAUSE, pause * 2) or FIRST_PAUSE
                self._hold(group, letters, error)

    def _take(self) -> tuple[list[Submission], list[DeadLetter]]:
        group: list[Submission] = []
        size = 0
        while self._queue and size < GROUP_EVENTS:
            submission = self._queue.popleft()
            group.append(submission)
            size += len(submission.events)
        letters, self._letters = self._letters, []
        return group, letters

    def _commit(self, group: list[Submission]) -> None:
        if not group:
            return
        events = [event for submission in group for event in submission.events]
        began = time.perf_counter()
        try:
            positions = self._store.append(events)
        except StoreError:
            raise
        except Exception as error:
            # Nothing is wrong with the store, so it is one of the events: who sent it is told, the others go on.
            if len(group) == 1:
                self._drop(group, error)
            while group:
                self._commit(group[:1])
                del group[0]
            return
        self._note(time.perf_counter() - began, positions)
        reports: list[Report] = []
        start = 0
        for submission in group:
            end = start + len(submission.events)
            reports.append((submission, positions[start:end]))
            start = end
        group.clear()
        self._report(reports)

    def _commit_letters(self, letters: list[DeadLetter]) -> None:
        if not letters:
            return
        try:
            self._store.add_dead_letters(letters)
        except StoreError:
            raise
        except Exception as error:
            logger.critical("%d dead letters could not be stored: %s: %s", len(letters), error, letters)
        self.forget(len(letters))
        letters.clear()

    def _note(self, seconds: float, positions: list[int]) -> None:
        figures = self.figures
        figures.seconds[bisect_left(COMMIT_BUCKETS, seconds)] += 1
        figures.seconds_sum += seconds
        figures.sizes[bisect_left(GROUP_BUCKETS, len(positions))] += 1
        figures.sizes_sum += len(positions)
        figures.duplicates += positions.count(0)

    def _hold(self, group: list[Submission], letters: list[DeadLetter], error: StoreError) -> None:
        """The store has refused ``group``: tell who waits, keep the rest for another try unless time is up."""
        self.figures.failures += 1
        logger.error("commit of %d events failed: %s", sum(len(submission.events) for submission in group), error)
        told = [submission for submission in group if submission.done is not None]
        kept = [submission for submission in group if submission.done is None]
        if told:
            self._report([(submission, error) for submission in told])
        if self._stop_by is not None and time.monotonic() >= self._stop_by:
            self._drop(kept, error)
            for letter in letters:
                logger.critical("dead letter could not be stored: %s: %s", error, letter)
            self.forget(len(letters))
            return
        with self._changed:
            self._queue.extendleft(reversed(kept))
            self._letters[:0] = letters

    def _drop(self, group: list[Submission], error: Exception) -> None:
        for submission in group:
            if submission.done is None:
                self.figures.lost += len(submission.events)
                for event in submission.events:
                    logger.critical("event could not be stored: %s: %s", error, _text(event))
        if group:
            self._report([(submission, error) for submission in group])
            group.clear()


def _text(event: BaseEvent) -> str:
    try:
        return event.to_json()
    except Exception:
        return repr(event)
