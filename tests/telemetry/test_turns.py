from pathlib import Path

import pytest

from agent_runtime.events.agent_events import AgentProcessingCompletedEvent, AgentProcessingStartedEvent
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.session_events import MessageAddedEvent
from agent_runtime.events.store.base import EventStore
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.system_events import SystemStartupEvent
from telemetry import turns as module
from telemetry.steps import TurnFacts
from telemetry.turns import SERVICE, STARTUP, Deadlines, SharedFacts, Turn, TurnBook
from tests.telemetry.folds import ClockedStore, Script, copies, memory, plain_turn

DEADLINES = Deadlines(grace=10, late=100, turn=1_000, approval=10_000)


class Looks:
    """A book of turns over a store, and the looks it took: (when, turn, settled, incomplete)."""

    def __init__(self, store: EventStore, shared: SharedFacts | None = None) -> None:
        self.store = store
        self.seen: list[tuple[int, str, bool, bool]] = []
        self.facts: list[TurnFacts] = []
        self.book = TurnBook(DEADLINES, self._look, store, shared)
        self.position = 0

    def _look(self, turn: Turn, facts: TurnFacts, at_ns: int, settled: bool, incomplete: bool) -> None:
        self.seen.append((at_ns, turn.correlation_id, settled, incomplete))
        self.facts.append(facts)

    def fold(self) -> None:
        """Take what is new in the store."""
        for event in self.store.read(self.position, 100_000):
            if event.event_type is STARTUP:
                self.book.resume(event)
            self.book.due(event.recorded_ns)
            if event.correlation_id is not None:
                self.book.add(event, event.correlation_id)
            self.position = event.position


def record(store: MemoryStore, at_ns: int, *events: BaseEvent) -> None:
    """Append copies of the events, recorded at that time."""
    fresh = copies(events)
    store.append(fresh)
    for event in fresh:
        event.recorded_ns = at_ns


def test_settled_after_the_grace() -> None:
    """A turn that has ended is settled when its last event is a grace ago, not before, and only once."""
    looks = Looks(memory(plain_turn("a").events, start_ns=1))
    looks.fold()
    looks.book.due(11)
    assert ([], 1) == (looks.seen, len(looks.book))
    looks.book.due(12)
    looks.book.due(10_000_000)
    assert ([(11, "a", True, False)], 0) == (looks.seen, len(looks.book))


def test_an_open_approval_waits_longest() -> None:
    """What has closed is looked at after the grace; the turn is closed at the deadline for people."""
    looks = Looks(memory(plain_turn("a", decided=False).events, start_ns=1))
    looks.fold()
    looks.book.due(1_000_000)
    assert [(11, "a", False, False), (10_001, "a", True, True)] == looks.seen


def test_a_turn_without_an_agent_waits_for_one() -> None:
    """It does not say when it ends, so it is given more time."""
    turn = Script("a")
    turn.tell(MessageAddedEvent, role="user", content_length=1)
    looks = Looks(memory(turn.events, start_ns=1))
    looks.fold()
    looks.book.due(1_000_000)
    assert [(11, "a", False, False), (101, "a", True, False)] == looks.seen


def test_a_cause_that_nobody_has_seen_is_waited_for() -> None:
    """Nothing is given out before it comes, or is given up: places hang on causes."""
    turn = plain_turn("a", decided=False)
    turn.events[0].causation_id = "00000000-0000-4000-8000-000000000000"
    looks = Looks(memory(turn.events, start_ns=1))
    looks.fold()
    looks.book.due(1_000_000)
    assert [(101, "a", False, False), (10_001, "a", True, True)] == looks.seen


def test_an_event_starts_the_wait_anew() -> None:
    """After an event every wait counts from there; deadlines that are left over from before do nothing."""
    turn = plain_turn("a", decided=False)
    store = memory(turn.events, start_ns=1)
    looks = Looks(store)
    looks.fold()
    looks.book.due(500)
    record(store, 500, turn.tell(MessageAddedEvent, turn.events[1], role="user", content_length=1))
    looks.fold()
    looks.book.due(1_000_000)
    assert [(11, "a", False, False), (510, "a", False, False), (10_500, "a", True, True)] == looks.seen


def test_a_turn_that_never_falls_silent_is_looked_at() -> None:
    """Every six graces, whatever comes."""
    turn = Script("a")
    store = MemoryStore()
    record(store, 1, turn.tell(AgentProcessingStartedEvent, agent_type="coder", message=""))
    for moment in range(5, 150, 5):
        record(store, moment, turn.tell(MessageAddedEvent, turn.events[0], role="user", content_length=1))
    looks = Looks(store)
    looks.fold()
    assert [(61, "a", False, False), (121, "a", False, False)] == looks.seen


def test_late_events() -> None:
    """What comes after a turn was settled makes a turn with the whole history, settled after the grace."""
    turn = plain_turn("a")
    store = memory(turn.events, start_ns=1)
    looks = Looks(store)
    looks.fold()
    looks.book.due(500)
    record(store, 500, turn.tell(MessageAddedEvent, turn.events[1], role="user", content_length=1))
    looks.fold()
    looks.book.due(1_000_000)
    assert [(11, "a", True, False), (510, "a", True, False)] == looks.seen
    assert len(turn.events) == len(looks.facts[-1].events)


@pytest.mark.parametrize("moments", [[5, 300], [300], [11, 12, 13, 100, 101, 102]])
def test_when_somebody_looks_does_not_matter(moments: list[int]) -> None:
    """The looks are taken at the same moments of recording time, whenever ``due`` is called."""
    turn = Script("a")
    turn.tell(MessageAddedEvent, role="user", content_length=1)
    looks = Looks(memory([*turn.events, *plain_turn("b").events], start_ns=1))
    looks.fold()
    for moment in moments:
        looks.book.due(moment)
    assert [(11, "a", False, False), (11, "b", True, False), (101, "a", True, False)] == looks.seen


def test_too_many_open_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the one that began first is settled as it is."""
    monkeypatch.setattr(module, "MAX_OPEN_TURNS", 2)
    turns = [plain_turn(name, decided=False) for name in "abc"]
    looks = Looks(memory([event for turn in turns for event in turn.events], batch=10_000, start_ns=5))
    looks.fold()
    assert ([(4, "a", True, True)], 2) == (looks.seen, len(looks.book))


def test_a_turn_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit of events it is settled, and what follows is late."""
    monkeypatch.setattr(module, "MAX_TURN_EVENTS", 10)
    turn = Script("a")
    for _ in range(25):
        turn.tell(MessageAddedEvent, role="user", content_length=1)
    looks = Looks(memory(turn.events, batch=1, step_ns=1, start_ns=1))
    looks.fold()
    looks.book.due(1_000)
    assert [(10, "a", True, False), (20, "a", True, False), (35, "a", True, False)] == looks.seen


def test_leftover_alarms_are_cleared_away() -> None:
    """Turns that were decided long before their deadline leave nothing behind."""
    looks = Looks(MemoryStore())
    turn = Script("a")
    event = turn.tell(AgentProcessingStartedEvent, agent_type="coder", message="")
    end = turn.tell(AgentProcessingCompletedEvent, event, agent_type="coder", duration_ms=1.0)
    for number in range(20_000):
        event.recorded_ns = number * 30 + 1
        end.recorded_ns = event.recorded_ns + 15
        looks.book.due(event.recorded_ns)
        looks.book.add(event, f"{number}")
        looks.book.due(end.recorded_ns)
        looks.book.add(end, f"{number}")
    assert len(looks.book.alarms) < 2_000


def test_dump_and_load(tmp_path: Path) -> None:
    """A book that is loaded reads its events from the store again, dumps the same, and looks at the same moments."""
    store = ClockedStore(tmp_path / "events.db")
    for number, name in enumerate("abc"):
        store.clock.now_ns = 1 + number * 3
        store.append(copies(plain_turn(name, decided=name != "b").events))
    looks, again = Looks(store), Looks(store)
    looks.fold()
    looks.book.due(14)
    assert [(11, "a", True, False)] == looks.seen
    again.book.load(looks.book.dump(), looks.position)
    assert looks.book.dump() == again.book.dump()
    looks.seen.clear()
    for book in (looks, again):
        book.book.due(1_000_000)
    assert looks.seen == again.seen != []
    store.close()


def test_facts_are_worked_out_once() -> None:
    """Two books of the same events share the facts of each turn."""
    store = memory(plain_turn("a").events, start_ns=1)
    shared = SharedFacts()
    both = [Looks(store, shared), Looks(store, shared)]
    for looks in both:
        looks.fold()
        looks.book.due(1_000)
    assert both[0].facts[0] is both[1].facts[0]


def test_a_turn_that_breaks_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """What can't be settled is logged; the other turns are."""
    turn = plain_turn("a")
    store = memory([*turn.events, *plain_turn("b").events], start_ns=1)
    store.read(0, 1)[0].time_us = None  # type: ignore[assignment]
    looks = Looks(store)
    looks.fold()
    looks.book.due(1_000)
    assert ([(11, "b", True, False)], 0) == (looks.seen, len(looks.book))
    assert ["turn a can't be settled"] == [record.message for record in caplog.records]


@pytest.mark.parametrize("started_ns", [5, 500])
@pytest.mark.parametrize("restored", [True, False])
def test_silence_while_nobody_listened(started_ns: int, restored: bool) -> None:
    """Short or long: after the service's start every open turn has its grace again, also after a load."""
    store = memory([*plain_turn("a").events, *plain_turn("b", decided=False).events], start_ns=1)
    record(store, started_ns, SystemStartupEvent(version="1", source=SERVICE))
    record(store, started_ns, SystemStartupEvent(version="1", source="somebody else's"))
    looks = Looks(store)
    looks.fold()
    if restored:
        again = Looks(store)
        again.book.load(looks.book.dump(), looks.position)
        assert looks.book.dump() == again.book.dump()
        looks = again
    looks.book.due(1_000_000)
    due_ns = started_ns + DEADLINES.grace
    assert [(due_ns, "a", True, False), (due_ns, "b", False, False), (10_001, "b", True, True)] == looks.seen


def test_a_start_prolongs_no_deadline() -> None:
    """A turn that waits keeps its deadline over restarts, but for a grace."""
    store = memory(plain_turn("b", decided=False).events, start_ns=1)
    looks = Looks(store)
    looks.fold()
    looks.book.due(100)
    for moment in (3_000, 9_995, 20_000):
        record(store, moment, SystemStartupEvent(version="1", source=SERVICE))
        looks.fold()
        looks.book.due(moment + 1_000)
    assert [(11, "b", False, False), (10_005, "b", True, True)] == looks.seen
