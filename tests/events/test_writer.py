"""The group commit writer by itself, over stores that fail in all the ways there are."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from agent_runtime.events.agent_events import AgentSwitchedEvent
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.errors import BusClosed, InvalidEvent, StoreError
from agent_runtime.events.store.base import DeadLetter
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.writer import GROUP_EVENTS, GroupCommitWriter, Report, Submission

WAITS: Any = object()  # stands for a future: the writer only looks whether there is one


def submission(count: int = 1, waits: bool = False) -> Submission:
    """So many new events."""
    events = [AgentSwitchedEvent(from_agent="a", to_agent="b") for _ in range(count)]
    return Submission(events, WAITS if waits else None)


class Disk(MemoryStore):
    """A store that blocks while its gate is closed, and fails while it is told to."""

    blocking = True

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.poison: set[str] = set()
        self.batches: list[int] = []

    def append(self, events: Sequence[BaseEvent]) -> list[int]:
        """Commit, hang or fail."""
        self.gate.wait()
        self.batches.append(len(events))
        if self.error is not None:
            raise self.error
        if self.poison & {event.event_id for event in events}:
            raise InvalidEvent("data", "is poison")
        return super().append(events)

    def add_dead_letters(self, letters: Sequence[DeadLetter]) -> list[int]:
        """Commit or fail."""
        if self.error is not None:
            raise self.error
        return super().add_dead_letters(letters)


class Desk:
    """Takes the writer's reports, as the bus does."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.reports: list[Report] = []
        self.writer = GroupCommitWriter(self.disk, self.take)

    def take(self, reports: list[Report]) -> None:
        """On the writer's thread."""
        self.reports += reports
        self.writer.forget(sum(len(submission.events) for submission, _ in reports))

    def outcomes(self) -> dict[int, Any]:
        """What was reported, by the submission's identity."""
        return {id(submission): outcome for submission, outcome in self.reports}


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A writer over a store that can be told to fail."""
    made = Desk()
    yield made
    made.disk.gate.set()
    made.disk.error = None
    assert made.writer.stop(10)


def until(condition: Callable[[], object]) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_what_waits_is_committed_together(desk: Desk) -> None:
    """While one commit is under way the next group gathers, up to its limit; order is kept."""
    desk.disk.gate.clear()
    submissions = [submission(3) for _ in range(10)]
    desk.writer.submit(submissions[0])
    until(lambda: not desk.writer._queue)
    for each in submissions[1:]:
        desk.writer.submit(each)
    assert desk.writer.waiting == 30
    desk.disk.gate.set()
    until(lambda: desk.writer.waiting == 0)
    assert desk.disk.batches == [3, 27]
    assert [outcome for _, outcome in desk.reports] == [[n, n + 1, n + 2] for n in range(1, 31, 3)]
    assert [id(each) for each, _ in desk.reports] == [id(each) for each in submissions]


def test_a_group_is_limited(desk: Desk) -> None:
    """A long queue is committed in several groups, so that nobody waits for all of it."""
    desk.disk.gate.clear()
    for _ in range(31):
        desk.writer.submit(submission(GROUP_EVENTS // 10))
    desk.disk.gate.set()
    until(lambda: desk.writer.waiting == 0)
    assert max(desk.disk.batches) <= GROUP_EVENTS
    assert sum(desk.disk.batches) == 31 * GROUP_EVENTS // 10


def test_duplicates_are_reported_and_counted(desk: Desk) -> None:
    """Position 0 for what is known."""
    first = submission(2)
    desk.writer.submit(first)
    desk.writer.submit(Submission([first.events[1], *submission().events]))
    until(lambda: desk.writer.waiting == 0)
    assert [outcome for _, outcome in desk.reports] == [[1, 2], [0, 3]]
    figures = desk.writer.figures
    assert (figures.duplicates, figures.sizes_sum, figures.failures, figures.lost) == (1, 4, 0, 0)
    assert sum(figures.sizes) == sum(figures.seconds) == len(desk.disk.batches)


def test_a_failing_store_tells_who_waits_and_keeps_the_rest(desk: Desk) -> None:
    """Also those who come while it fails are told soon; in the end everything kept is stored, in order."""
    desk.disk.error = StoreError("disk full")
    kept, told = [submission(2) for _ in range(3)], [submission(2, waits=True) for _ in range(3)]
    for one, other in zip(kept, told, strict=True):
        desk.writer.submit(one)
        desk.writer.submit(other)
    until(lambda: len(desk.reports) == 3)
    late = submission(waits=True)
    desk.writer.submit(late)
    until(lambda: len(desk.reports) == 4)
    assert desk.outcomes() == dict.fromkeys(map(id, (*told, late)), desk.disk.error)
    assert desk.writer.waiting == 6
    assert desk.writer.figures.failures >= 2
    desk.disk.error = None
    until(lambda: desk.writer.waiting == 0)
    assert [outcome for _, outcome in desk.reports[4:]] == [[1, 2], [3, 4], [5, 6]]
    assert desk.disk.read(0, 10) == [event for each in kept for event in each.events]


def test_an_unfit_event_is_refused_alone(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Its submission is refused as a whole, all others of the group are stored, and nothing is tried again for ever."""
    submissions = [submission(2, waits=number == 2) for number in range(6)]
    desk.disk.poison = {submissions[2].events[1].event_id, submissions[4].events[0].event_id}
    desk.disk.gate.clear()
    for each in submissions:
        desk.writer.submit(each)
    desk.disk.gate.set()
    until(lambda: desk.writer.waiting == 0)
    outcomes = [desk.outcomes()[id(each)] for each in submissions]
    assert [isinstance(outcome, InvalidEvent) for outcome in outcomes] == [False, False, True, False, True, False]
    assert desk.disk.last_position() == 8
    assert desk.writer.figures.lost == 2
    assert all(event.to_json() in caplog.text for event in submissions[4].events)


def test_dead_letters_are_committed_too(desk: Desk) -> None:
    """In one go with what else is waiting; while the store fails they are kept."""
    letters = [DeadLetter("handlers", "c", str(number), "{}", "e", 1, 1) for number in range(5)]
    desk.disk.error = StoreError("disk full")
    for letter in letters:
        desk.writer.submit_letter(letter)
    assert desk.writer.waiting == 5
    until(lambda: desk.writer.figures.failures)
    desk.disk.error = None
    until(lambda: desk.writer.waiting == 0)
    assert [letter.event_id for letter in desk.disk.dead_letters()] == [letter.event_id for letter in letters]


def test_letters_that_no_store_takes_do_not_stop_the_writer(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """They are logged, and events go on."""
    desk.disk.error = ValueError("not a letter")
    desk.writer.submit_letter(DeadLetter("handlers", "c", "e", "{}", "e", 1, 1))
    until(lambda: desk.writer.waiting == 0)
    desk.disk.error = None
    desk.writer.submit(submission())
    until(lambda: desk.disk.last_position() == 1)
    assert "1 dead letters could not be stored" in caplog.text


def test_stop_commits_what_is_queued(desk: Desk) -> None:
    """Then nothing more is taken; stopping again is fine."""
    for _ in range(100):
        desk.writer.submit(submission(3))
    assert desk.writer.stop(10)
    assert desk.disk.last_position() == 300
    assert desk.writer.stop(10)
    with pytest.raises(BusClosed):
        desk.writer.submit(submission())
    with pytest.raises(BusClosed):
        desk.writer.submit_letter(DeadLetter("handlers", "c", "e", "{}", "e", 1, 1))


def test_stop_without_work(desk: Desk) -> None:
    """There is no thread before there is something to do, so there is none to stop."""
    assert desk.writer._thread is None
    assert desk.writer.stop(0)


def test_stop_is_bounded_while_the_store_hangs() -> None:
    """It says that it did not get done."""
    desk = Desk()
    desk.disk.gate.clear()
    desk.writer.submit(submission())
    assert not desk.writer.stop(0.05)
    desk.disk.gate.set()
    until(lambda: desk.disk.last_position() == 1)


def test_stop_is_bounded_while_the_store_fails(caplog: pytest.LogCaptureFixture) -> None:
    """When its time is up, what can't be stored is logged in full and reported."""
    desk = Desk()
    desk.disk.error = StoreError("disk full")
    lost = submission(3)
    desk.writer.submit(lost)
    desk.writer.submit_letter(DeadLetter("handlers", "somebody", "e", "{}", "e", 1, 1))
    assert not desk.writer.stop(0.2)
    assert desk.writer.figures.lost == 3
    assert desk.outcomes() == {id(lost): desk.disk.error}
    assert desk.writer.waiting == 0
    assert all(event.to_json() in caplog.text for event in lost.events)
    assert "dead letter could not be stored" in caplog.text
