"""Group commit: one thread commits together whatever is waiting, and reports back to the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.errors import StoreError
from agent_runtime.events.store.base import EventStore

logger = logging.getLogger("agent_runtime.events")

COMMIT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
GROUP_BUCKETS = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0)
GROUP_EVENTS = 5_000
RETRY_SECONDS = 30.0


@dataclass(slots=True)
class Submission:
    """Events handed over together.

    Attributes:
        done: resolved with their positions after the commit; None where nobody waits.
        waited: their one event is published with ``wait_for_handlers``.
    """

    loop: asyncio.AbstractEventLoop
    events: Sequence[BaseEvent]
    done: asyncio.Future[list[int]] | None
    waited: bool = False
    finished: asyncio.Future[list[object] | None] | None = None


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

    Args:
        store: where events go.
        on_commit: called on the submission's loop with the submission and its positions, in store order.
    """

    def __init__(self, store: EventStore, on_commit: Callable[[Submission, list[int]], None]) -> None:
        self._store = store
        self._on_commit = on_commit
        self._queue: SimpleQueue[Submission | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._count = threading.Lock()
        self.waiting = 0
        self.figures = CommitFigures()

    def submit(self, submission: Submission) -> None:
        """Queue a submission; it is committed after all that were queued before."""
        with self._count:
            self.waiting += len(submission.events)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="event-store-writer", daemon=True)
                self._thread.start()
        self._queue.put(submission)

    def stop(self, timeout: float) -> bool:
        """Commit what is queued and end the thread; False if that took longer than ``timeout`` seconds."""
        thread = self._thread
        if thread is None:
            return True
        self._queue.put(None)
        thread.join(timeout)
        return not thread.is_alive()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            first = self._queue.get()
            if first is None:
                return
            group, size = [first], len(first.events)
            while size < GROUP_EVENTS:
                try:
                    submission = self._queue.get_nowait()
                except Empty:
                    break
                if submission is None:
                    stopping = True
                    break
                group.append(submission)
                size += len(submission.events)
            self._commit(group)

    def _commit(self, group: list[Submission]) -> None:
        deadline = time.monotonic() + RETRY_SECONDS
        pause = 0.1
        while group:
            events = [event for submission in group for event in submission.events]
            began = time.perf_counter()
            try:
                positions = self._store.append(events)
            except Exception as error:
                self.figures.failures += 1
                logger.error("commit of %d events failed: %s", len(events), error)
                # Who waits is told at once, and may send again; what nobody waits for is ours to keep.
                group = [submission for submission in group if not self._refuse(submission, error)]
                if time.monotonic() > deadline:
                    self._give_up(group, error)
                    return
                time.sleep(pause)
                pause = min(1.0, pause * 2)
                continue
            self._note(time.perf_counter() - began, positions)
            self._report(group, positions)
            return

    def _note(self, seconds: float, positions: list[int]) -> None:
        figures = self.figures
        figures.seconds[bisect_left(COMMIT_BUCKETS, seconds)] += 1
        figures.seconds_sum += seconds
        figures.sizes[bisect_left(GROUP_BUCKETS, len(positions))] += 1
        figures.sizes_sum += len(positions)
        figures.duplicates += positions.count(0)

    def _report(self, group: list[Submission], positions: list[int]) -> None:
        start = 0
        calls: dict[asyncio.AbstractEventLoop, list[tuple[Submission, list[int]]]] = {}
        for submission in group:
            end = start + len(submission.events)
            calls.setdefault(submission.loop, []).append((submission, positions[start:end]))
            start = end
        for loop, reports in calls.items():
            if not _call(loop, lambda reports=reports: self._deliver(reports)):  # type: ignore[misc]
                self._forget(sum(len(positions) for _, positions in reports))

    def _deliver(self, reports: list[tuple[Submission, list[int]]]) -> None:
        for submission, positions in reports:
            self._forget(len(positions))
            self._on_commit(submission, positions)

    def _refuse(self, submission: Submission, error: Exception) -> bool:
        done = submission.done
        if done is None:
            return False
        self._forget(len(submission.events))
        refusal = error if isinstance(error, StoreError) else StoreError(str(error))
        _call(submission.loop, lambda: None if done.done() else done.set_exception(refusal))
        return True

    def _give_up(self, group: list[Submission], error: Exception) -> None:
        for submission in group:
            self._forget(len(submission.events))
            self.figures.lost += len(submission.events)
            for event in submission.events:
                logger.critical("event could not be stored: %s: %s", error, event.to_json())

    def _forget(self, count: int) -> None:
        with self._count:
            self.waiting -= count


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> bool:
    """Call on ``loop``; False if that loop is closed."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        return False
    return True
