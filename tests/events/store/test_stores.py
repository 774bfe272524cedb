"""What every store must do, on each of them."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent_runtime.events.agent_events import AgentRegisteredEvent, AgentSwitchedEvent
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.domain_events import DomainRecord, MessageReceived
from agent_runtime.events.errors import InvalidEvent, StoreError
from agent_runtime.events.session_events import SessionCreatedEvent
from agent_runtime.events.store import open_store, sqlite
from agent_runtime.events.store.base import DeadLetter, EventStore
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.store.sqlite import SqliteStore


def switched(session_id: str | None = "s", **common: str) -> AgentSwitchedEvent:
    """A switch."""
    return AgentSwitchedEvent(session_id=session_id, from_agent="a", to_agent="b", **common)  # type: ignore[arg-type]


def letter(number: int, queue: str = "handlers") -> DeadLetter:
    """A dead letter."""
    return DeadLetter(queue, "consumer", f"event {number}", "{}", "lost — 'ö'", number, 10**18 + number)


def copies(events: list[BaseEvent]) -> list[BaseEvent]:
    """Other objects that are the same events."""
    return [AgentSwitchedEvent(**_keys(event)) for event in events]


def _keys(event: BaseEvent) -> dict[str, object]:
    return {
        "event_id": event.event_id,
        "session_id": event.session_id,
        "timestamp": event.timestamp,
        "from_agent": "a",
        "to_agent": "b",
    }


def test_positions_are_1_2_3(store: EventStore) -> None:
    """Positions are contiguous over batches of any size, and stand on the events."""
    events = [switched() for _ in range(20)]
    given = [store.append(events[:1]), store.append(events[1:15]), store.append([]), store.append(events[15:])]
    assert [position for batch in given for position in batch] == list(range(1, 21))
    assert [event.position for event in events] == list(range(1, 21))
    assert store.last_position() == 20
    assert store.read(0, 100) == events


def test_an_empty_store(store: EventStore) -> None:
    """Nothing is found, and nothing raises."""
    assert (store.last_position(), store.read(0, 10), store.query(), store.get("x")) == (0, [], [], None)
    assert (store.load_checkpoint("x"), store.dead_letters(), store.count_dead_letters()) == (None, [], {})
    assert store.watermark()[0] == 0


def test_events_come_back_as_they_were(store: EventStore) -> None:
    """Class, keys, data, position and recording time; also of domain events, and whatever JSON can hold."""
    data = {
        "from_agent": "ä ö 🚀",
        "to_agent": "b",
        "deep": {"list": [1, -(2**63), 2**63 - 1, 0.1, 1e-300, True, None, "\u2028"]},
    }
    fact = MessageReceived(session_id="s", message_content="hello", message_length=5)
    events = [
        AgentSwitchedEvent(from_agent="a", to_agent="b"),
        BaseEvent("agent_switched", data, session_id="s", correlation_id="c", causation_id="e", source="here"),
        DomainRecord.of(fact),
    ]
    store.append(events)
    back = store.read(0, 10)
    assert [event.to_json() for event in back] == [event.to_json() for event in events]
    assert [(event.position, event.recorded_ns) for event in back] == [
        (event.position, event.recorded_ns) for event in events
    ]
    assert isinstance(back[2], DomainRecord)
    assert back[2].domain == fact
    assert store.get(events[1].event_id) == events[1]


def test_duplicates_change_nothing(store: EventStore) -> None:
    """Within a batch, across batches, the same object or a copy: 0, and the first one stays as it is."""
    first, second, third = switched(), switched(), switched()
    (first_again,) = copies([first])
    assert store.append([first, first_again, second, first]) == [1, 0, 2, 0]
    recorded = first.recorded_ns
    assert store.append([first_again, third, second, third]) == [0, 3, 0, 0]
    assert store.append([first, second, third]) == [0, 0, 0]
    assert (first.position, first.recorded_ns, first_again.position) == (1, recorded, 0)
    assert store.read(0, 10) == [first, second, third]
    assert store.last_position() == 3
    assert store.append([switched()]) == [4]


def test_recorded_ns_never_decreases(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even while the system's clock goes back; and it is the store's time, not the event's."""
    before = time.time_ns()
    clock = [before + 5_000_000_000]
    monkeypatch.setattr(time, "time_ns", lambda: clock[0])
    times = []
    for step in (0, -3_000_000_000, 1, -(10**12), 0):
        clock[0] += step
        event = switched()
        store.append([event])
        times.append(event.recorded_ns)
        times.append(store.watermark()[1])
    assert times == sorted(times)
    assert times[0] == before + 5_000_000_000
    assert [event.recorded_ns for event in store.read(0, 10)] == times[::2]


def test_read_pages(store: EventStore) -> None:
    """Behind any position, at most so many."""
    events = [switched() for _ in range(10)]
    store.append(events)
    assert store.read(3, 4) == events[3:7]
    assert store.read(8, 4) == events[8:]
    assert store.read(10, 4) == store.read(99, 4) == store.read(0, 0) == []


def test_large_events_are_read_in_smaller_lots(sqlite_store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read stops where it has enough bytes, not before it has an event; going on behind it finds them all."""
    monkeypatch.setattr(sqlite, "READ_BYTES", 2_000)
    events = [switched() for _ in range(10)]
    for event in events:
        event.data["reason"] = "x" * 900
    sqlite_store.append(events)
    assert all(900 < event.size < 1_000 for event in events)
    found: list[BaseEvent] = []
    lots = []
    while lot := sqlite_store.read(len(found), 100):
        lots.append(len(lot))
        found += lot
    assert lots == [3, 3, 3, 1]
    assert found == events
    assert [event.size for event in found] == [event.size for event in events]
    monkeypatch.setattr(sqlite, "READ_BYTES", 1)
    assert sqlite_store.read(0, 100) == events[:1]


def test_query_by_session_correlation_and_type(store: EventStore) -> None:
    """Each filter alone, all together, and the filters that nothing matches."""
    events = [
        (switched, AgentRegisteredEvent)[number % 2](
            **({"agent_type": "a"} if number % 2 else {}),
            session_id=f"s{number % 3}",
            correlation_id=f"c{number % 5}" if number % 4 else None,
        )  # type: ignore[operator]
        for number in range(60)
    ]
    store.append(events)

    def expected(**filters: object) -> list[BaseEvent]:
        return [event for event in events if all(getattr(event, key) == value for key, value in filters.items())]

    assert store.query(session_id="s1") == expected(session_id="s1")
    assert store.query(correlation_id="c2") == expected(correlation_id="c2")
    assert store.query(event_types=["agent_switched"]) == expected(event_type="agent_switched")
    assert store.query(event_types=["agent_registered", "agent_switched", "agent_switched"]) == events
    combined = {"session_id": "s1", "correlation_id": "c2", "event_type": "agent_registered"}
    found = store.query(session_id="s1", correlation_id="c2", event_types=["agent_registered", "session_created"])
    assert found == expected(**combined) != []
    assert store.query(session_id="nobody") == store.query(event_types=[]) == []
    assert store.query(event_types=["session_created"]) == []
    assert store.query(session_id="s1", event_types=[]) == []


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"session_id": "s1"},
        {"correlation_id": "c"},
        {"event_types": ["agent_switched"]},
        {"event_types": ["agent_switched", "session_created"]},
        {"session_id": "s1", "event_types": ["session_created", "agent_registered"]},
    ],
    ids=str,
)
def test_query_pages(store: EventStore, filters: dict[str, object]) -> None:
    """Paging by position, and ``newest``, agree with one big query."""
    rng = random.Random(1)
    make: list[Callable[..., BaseEvent]] = [
        switched,
        lambda **common: AgentRegisteredEvent(agent_type="a", **common),
        SessionCreatedEvent,
    ]
    store.append(
        [
            rng.choice(make)(session_id=rng.choice(["s1", "s2"]), correlation_id=rng.choice(["c", "d"]))
            for _ in range(200)
        ]
    )
    whole = store.query(**filters, limit=1000)  # type: ignore[arg-type]
    assert len(whole) > 30
    paged: list[BaseEvent] = []
    while page := store.query(**filters, after=paged[-1].position if paged else 0, limit=7):  # type: ignore[arg-type]
        paged += page
    assert paged == whole
    assert store.query(**filters, limit=5, newest=True) == whole[-5:]  # type: ignore[arg-type]
    middle = whole[-3].position
    assert store.query(**filters, after=middle, limit=5, newest=True) == whole[-2:]  # type: ignore[arg-type]


def test_checkpoints(store: EventStore) -> None:
    """The last one of each name, any bytes."""
    store.save_checkpoint("metrics", 3, b"three")
    store.save_checkpoint("spans", 1, bytes(range(256)))
    store.save_checkpoint("metrics", 7, b"")
    assert store.load_checkpoint("metrics") == (7, b"")
    assert store.load_checkpoint("spans") == (1, bytes(range(256)))
    assert store.load_checkpoint("other") is None


def test_dead_letters(store: EventStore) -> None:
    """Ids go up and are never used again; oldest first, in pages, counted by queue."""
    first = store.add_dead_letter(letter(1))
    rest = store.add_dead_letters([letter(2, "spans"), letter(3), letter(4)])
    ids = [first, *rest]
    assert ids == sorted(set(ids))
    whole = store.dead_letters()
    assert whole == [
        replace(letter(number, "spans" if number == 2 else "handlers"), letter_id=ids[number - 1])
        for number in range(1, 5)
    ]
    assert store.dead_letters(limit=2) == whole[:2]
    assert store.dead_letters(limit=2, after=ids[1]) == whole[2:]
    assert store.count_dead_letters() == {"handlers": 3, "spans": 1}
    assert store.remove_dead_letter(ids[1])
    assert not store.remove_dead_letter(ids[1])
    assert store.remove_dead_letter(ids[3])
    assert store.count_dead_letters() == {"handlers": 2}
    assert store.add_dead_letter(letter(5)) > ids[3]


def test_appending_from_many_threads(store: EventStore) -> None:
    """Every event has one position of its own, also when two threads bring the same events."""
    batches = [[switched(f"s{thread}") for _ in range(200)] for thread in range(8)]
    twins = [copies(batch) for batch in batches]
    given: list[int] = []

    def append(events: list[BaseEvent]) -> None:
        for start in range(0, len(events), 7):
            given.extend(store.append(events[start : start + 7]))

    _run([lambda events=events: append(events) for events in (*batches, *twins)])
    assert sorted(position for position in given if position) == list(range(1, 1601))
    assert [event.position for event in store.read(0, 2000)] == list(range(1, 1601))
    assert {event.event_id for event in store.read(0, 2000)} == {e.event_id for batch in batches for e in batch}


def test_readers_while_writing(store: EventStore) -> None:
    """Every reader sees a contiguous prefix at any moment, whole batches or not, and all of it in the end."""
    events = [switched(f"s{number % 3}") for number in range(3_000)]
    problems: list[str] = []
    done = threading.Event()

    def write() -> None:
        for start in range(0, len(events), 30):
            store.append(events[start : start + 30])
        done.set()

    def follow() -> None:
        after = 0
        while not (done.is_set() and after == 3_000):
            page = store.read(after, 100)
            if [event.position for event in page] != list(range(after + 1, after + 1 + len(page))):
                problems.append(f"behind {after}: {[event.position for event in page]}")
                return
            after += len(page)

    def query() -> None:
        while not done.is_set():
            found = store.query(session_id="s1", limit=10, newest=True)
            positions = [event.position for event in found]
            if positions != sorted(positions) or {event.session_id for event in found} - {"s1"}:
                problems.append(str(positions))
                return
            if found and store.get(found[-1].event_id) != found[-1]:
                problems.append(f"{found[-1]} is gone")

    _run([write, follow, follow, follow, query])
    assert problems == []


def test_the_watermark_holds(store: EventStore) -> None:
    """Everything recorded up to a watermark's time stands at or before its position, whatever is written meanwhile."""
    told: list[tuple[int, int]] = []
    done = threading.Event()

    def write() -> None:
        for number in range(300):
            store.append([switched() for _ in range(number % 5 + 1)])

    def look() -> None:
        while not done.is_set():
            told.append(store.watermark())

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    _run([write] * 3)
    done.set()
    for watcher in watchers:
        watcher.join()
    recorded = [event.recorded_ns for event in store.read(0, 10_000)]
    assert recorded == sorted(recorded)
    assert len(told) > 10
    wrong = []
    for position, now_ns in told:
        before_is_old = position == 0 or recorded[position - 1] <= now_ns
        after_is_new = position == len(recorded) or recorded[position] > now_ns
        if not after_is_new or not before_is_old:
            wrong.append((position, now_ns))
    assert wrong == []


def test_the_watermark_moves_with_the_clock(store: EventStore) -> None:
    """Also while nothing is stored, so that what waits for quiet is settled."""
    store.append([switched()])
    position, first = store.watermark()
    time.sleep(0.001)
    later_position, later = store.watermark()
    assert (position, later_position) == (1, 1)
    assert later > first


def test_size(store: EventStore) -> None:
    """Bytes on disk, 0 where there is no disk."""
    store.append([switched() for _ in range(100)])
    assert (store.size_bytes() > 10_000) == store.blocking


def test_closing_twice(store: EventStore) -> None:
    """The second time does nothing; a store on disk refuses whatever comes after it."""
    store.append([switched()])
    store.close()
    store.close()
    if store.blocking:
        uses: list[Callable[[], object]] = [
            lambda: store.append([switched()]),
            lambda: store.read(0, 1),
            lambda: store.query(),
            lambda: store.save_checkpoint("x", 1, b""),
            lambda: store.load_checkpoint("x"),
            lambda: store.add_dead_letter(letter(1)),
            lambda: store.dead_letters(),
        ]
        for use in uses:
            with pytest.raises(StoreError, match="closed"):
                use()


def test_memory_is_bounded() -> None:
    """The oldest events and dead letters give way; readers behind them are passed on to the oldest that is held."""
    store = MemoryStore(capacity=100)
    events = [switched() for _ in range(1_000)]
    for event in events:
        store.append([event])
        store.add_dead_letter(letter(event.position))
    held = store.read(0, 1_000)
    assert held == events[-len(held) :]
    assert 80 <= len(held) <= 100
    assert (store.get(events[0].event_id), store.get(events[-1].event_id)) == (None, events[-1])
    assert len(store.dead_letters(limit=1_000)) == 100
    assert store.append([events[-1]]) == [0]


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[SqliteStore]:
    """A fresh SQLite store."""
    store = SqliteStore(tmp_path / "events.db", "NORMAL")
    yield store
    store.close()


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("data", {"x": object()}),
        ("data", {"x": 2**80}),
        ("session_id", "lone \ud800"),
        ("session_id", object()),
        ("source", None),
        ("time_us", 2**80),
    ],
    ids=str,
)
def test_an_event_that_can_not_be_stored_is_told_from_a_sick_store(
    sqlite_store: SqliteStore, attribute: str, value: object
) -> None:
    """Spoilt after it was built: an error of the event, nothing of its batch is kept, and the store works on."""
    spoilt = switched()
    setattr(spoilt, attribute, value)
    with pytest.raises(InvalidEvent, match="can't be stored"):
        sqlite_store.append([switched(), spoilt])
    assert (sqlite_store.last_position(), sqlite_store.read(0, 10)) == (0, [])
    assert sqlite_store.append([switched()]) == [1]


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({"session_id": "s"}, "events_by_session"),
        ({"correlation_id": "c"}, "events_by_correlation"),
        ({"event_types": ["agent_switched"]}, "events_by_type"),
        ({"event_types": ["agent_switched", "session_created"]}, "events_by_type"),
        ({"session_id": "s", "event_types": ["agent_switched"]}, "events_by_session"),
    ],
    ids=str,
)
@pytest.mark.parametrize("newest", [True, False])
def test_queries_use_an_index_and_sort_nothing(
    sqlite_store: SqliteStore, monkeypatch: pytest.MonkeyPatch, filters: dict[str, object], index: str, newest: bool
) -> None:
    """So the cost of a page does not grow with the store."""
    plans: list[str] = []
    fetch = sqlite_store._fetch

    def explain(query: str, values: object = ()) -> list[object]:
        plans.extend(row[3] for row in fetch(f"EXPLAIN QUERY PLAN {query}", values))  # type: ignore[arg-type]
        return fetch(query, values)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite_store, "_fetch", explain)
    sqlite_store.query(**filters, after=5, limit=10, newest=newest)  # type: ignore[arg-type]
    types = len(filters.get("event_types", ()))  # type: ignore[arg-type]
    merged = types > 1 and "session_id" not in filters
    assert [index in plan for plan in plans if plan.startswith("SEARCH")] == [True] * (types if merged else 1)
    # The pages of several types are merged, which sorts them, and no more than them.
    assert any("TEMP B-TREE" in plan for plan in plans) == merged
    assert not [plan for plan in plans if plan.startswith("SCAN events")]


def test_readers_share_connections(sqlite_store: SqliteStore) -> None:
    """Threads that come and go do not leave an open file each."""
    sqlite_store.append([switched()])
    for _ in range(30):
        _run([lambda: sqlite_store.read(0, 10)] * 2)
    assert len(sqlite_store._connections) <= 3


def test_open_store(tmp_path: Path) -> None:
    """By url; an unknown scheme is refused."""
    assert isinstance(open_store("memory://"), MemoryStore)
    store = open_store(f"sqlite:///{tmp_path}/events.db")
    assert store.blocking
    store.close()
    with pytest.raises(ValueError, match="no event store for mysql://"):
        open_store("mysql://x")


def _run(functions: list[Callable[[], object]]) -> None:
    """Run all at once, each in a thread of its own; an error in one of them is raised here."""
    errors: list[BaseException] = []

    def guarded(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
