"""The SQLite store when things go wrong: kill -9, a full disk, a second process, files that are no store."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.events.agent_events import AgentSwitchedEvent
from agent_runtime.events.errors import StoreError
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.store.sqlite import SqliteStore

ROOT = Path(__file__).parents[3]
HEADER = """
import asyncio, os, resource, signal, sys
from agent_runtime.events.agent_events import AgentSwitchedEvent
from agent_runtime.events.errors import StoreError
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.store.base import DeadLetter
from agent_runtime.events.store.sqlite import SqliteStore

def switched(**keys):
    return AgentSwitchedEvent(from_agent="a", to_agent="b", **keys)
"""


def child(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs ``program`` with ``sys.argv[1:]`` = ``arguments``."""
    command = [sys.executable, "-c", HEADER + program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(program: str, *arguments: object) -> str:
    """What such a process prints; it must end well."""
    process = child(program, *arguments)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    return out


def switched(**keys: Any) -> AgentSwitchedEvent:
    """A switch."""
    return AgentSwitchedEvent(from_agent="a", to_agent="b", **keys)


def all_ids(store: SqliteStore) -> list[str]:
    """The ids of all events, in order."""
    found: list[str] = []
    while page := store.read(len(found), 1_000):
        assert [event.position for event in page] == list(range(len(found) + 1, len(found) + 1 + len(page)))
        found += [event.event_id for event in page]
    return found


APPENDS_UNTIL_KILLED = """
store = SqliteStore(sys.argv[1])
while True:
    batch = [switched() for _ in range(20)]
    store.append(batch)
    print(*(event.event_id for event in batch), flush=True)
"""

PUBLISHES_UNTIL_KILLED = """
async def main():
    bus = EventBus(SqliteStore(sys.argv[1]))
    async def publisher():
        while True:
            event = switched()
            await bus.publish(event, wait_for_handlers=True)
            print(event.event_id, flush=True)
    await asyncio.gather(*(publisher() for _ in range(20)))
asyncio.run(main())
"""


@pytest.mark.parametrize("program", [APPENDS_UNTIL_KILLED, PUBLISHES_UNTIL_KILLED], ids=["append", "publish"])
def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path, program: str) -> None:
    """Killed again and again at any moment: every id that was acknowledged is there, once, at a place of its own."""
    path = tmp_path / "events.db"
    acknowledged: list[str] = []
    for round_number in range(5):
        process = child(program, path)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5 + 13 * round_number)]
        process.kill()
        rest, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (-signal.SIGKILL, "")
        complete = ("".join(lines) + rest).rpartition("\n")[0]
        acknowledged += complete.split()
        store = SqliteStore(path)
        stored = all_ids(store)
        store.close()
        assert len(stored) == len(set(stored))
        assert set(acknowledged) <= set(stored)
    assert len(acknowledged) > 100


def test_a_program_that_does_not_close_the_bus_loses_nothing(tmp_path: Path) -> None:
    """What was published without waiting is stored when the program ends in the ordinary way."""
    program = """
async def main():
    bus = EventBus(SqliteStore(sys.argv[1]))
    for number in range(500):
        await bus.publish(switched(session_id=str(number)))
asyncio.run(main())
"""
    run(program, tmp_path / "events.db")
    store = SqliteStore(tmp_path / "events.db")
    assert [event.session_id for event in store.read(0, 1_000)] == [str(number) for number in range(500)]
    store.close()


def test_everything_is_there_after_opening_again(tmp_path: Path) -> None:
    """Positions and recording times go on, duplicates are known, checkpoints and dead letters are kept."""
    program = """
store = SqliteStore(sys.argv[1])
store.append([switched(event_id="00000000-0000-0000-0000-00000000000" + digit) for digit in "123"])
store.save_checkpoint("metrics", 3, b"state")
store.add_dead_letters([DeadLetter("handlers", "c", str(n), "{}", "e", 1, 1) for n in range(3)])
print(store.read(2, 1)[0].recorded_ns, store.watermark()[1])
"""
    recorded_ns, told_ns = map(int, run(program, tmp_path / "events.db").split())
    store = SqliteStore(tmp_path / "events.db")
    assert store.watermark()[0] == store.last_position() == 3
    old, new = switched(event_id="00000000-0000-0000-0000-000000000002"), switched()
    assert store.append([old, new]) == [0, 4]
    assert new.recorded_ns > told_ns >= recorded_ns
    assert store.load_checkpoint("metrics") == (3, b"state")
    assert (len(store.dead_letters()), store.count_dead_letters()) == (3, {"handlers": 3})
    store.close()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """It would fold and export everything twice. The message says what is the matter; afterwards the file is free."""
    path = tmp_path / "events.db"
    store = SqliteStore(path)
    program = """
try:
    SqliteStore(sys.argv[1])
except StoreError as error:
    print(error)
else:
    print("opened")
"""
    assert f"{path} is in use by another process" in run(program, path)
    with pytest.raises(StoreError, match="in use"):
        SqliteStore(path)
    store.append([switched()])
    store.close()
    assert run(program, path) == "opened\n"


def test_a_file_in_a_missing_folder(tmp_path: Path) -> None:
    """Says which file can't be opened, and why."""
    with pytest.raises(StoreError, match=r"can't open the event store .*missing/events\.db.*No such file or directory"):
        SqliteStore(tmp_path / "missing" / "events.db")


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    """Says that it can't be opened, and holds nothing."""
    for _ in range(2):
        with pytest.raises(StoreError, match="unable to open database file"):
            SqliteStore(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"This is a letter to my grandmother, and no database at all. " * 100, "file is not a database"),
        (b"SQLite format 3\0" + os.urandom(8_000), "can't open the event store"),
    ],
)
def test_a_corrupt_file(tmp_path: Path, content: bytes, message: str) -> None:
    """Refused when it is opened, and left as it is."""
    path = tmp_path / "events.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=message):
        SqliteStore(path)
    assert path.read_bytes() == content


def test_a_database_of_somebody_else(tmp_path: Path) -> None:
    """A table of the same name that is another one, and a schema that comes from the future."""
    other, future = tmp_path / "other.db", tmp_path / "future.db"
    for path, statement in ((other, "CREATE TABLE events (name TEXT)"), (future, "PRAGMA user_version = 99")):
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.commit()
        connection.close()
    with pytest.raises(StoreError, match="can't open the event store"):
        SqliteStore(other)
    with pytest.raises(StoreError, match="its schema is version 99"):
        SqliteStore(future)


def test_a_file_that_is_damaged_while_it_is_used(tmp_path: Path) -> None:
    """Reading what is broken is a clear error each time, not a crash."""
    path = tmp_path / "events.db"
    store = SqliteStore(path)
    for _ in range(20):
        store.append([switched(session_id="s" * 200) for _ in range(50)])
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096 * 8)
        file.write(os.urandom(size - 4096 * 8))
    with pytest.raises(StoreError, match="event store"):
        store = SqliteStore(path)
        try:
            for _ in range(2):
                store.read(0, 10_000)
        finally:
            store.close()


def test_no_write_ahead_log_no_store() -> None:
    """A database in memory is private to each connection: readers would find nothing in it."""
    with pytest.raises(StoreError, match="write-ahead log"):
        SqliteStore(":memory:")
    Path(":memory:.lock").unlink()


def test_settings_of_synchronous(tmp_path: Path) -> None:
    """FULL by default; OFF would lose acknowledged events, so it is refused."""
    for setting, value in ((None, 2), ("NORMAL", 1), ("full", 2), ("EXTRA", 3)):
        store = SqliteStore(tmp_path / f"{setting}.db", *([setting] if setting else []))
        assert store._writer.execute("PRAGMA synchronous").fetchone() == (value,)
        store.close()
    with pytest.raises(StoreError, match="FULL, NORMAL or EXTRA, got 'OFF'"):
        SqliteStore(tmp_path / "x.db", "OFF")


# A full disk, without a disk to fill: files must not grow beyond a limit, which is lifted later.
FULL_DISK = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """StoreError, nothing of the batch is there, reading goes on; with room again the store goes on where it was."""
    program = (
        FULL_DISK
        + """
store = SqliteStore(sys.argv[1])
good = [switched() for _ in range(10)]
store.append(good)
limit(200_000)
failures = 0
for _ in range(100):
    batch = [switched(session_id="s" * 256) for _ in range(10)]
    try:
        store.append(batch)
        good += batch
    except StoreError as error:
        failures += 1
        assert "can't commit 10 events" in str(error), error
        assert [event.position for event in batch] == [0] * 10
    assert store.read(0, 10_000) == good
    assert store.watermark()[0] == store.last_position() == len(good)
for operation in (lambda: store.save_checkpoint("x", 1, b"s" * 300_000),
                  lambda: store.add_dead_letter(DeadLetter("q", "c", "e", "p" * 300_000, "e", 1, 1))):
    try:
        operation()
    except StoreError:
        failures += 1000
assert (store.load_checkpoint("x"), store.count_dead_letters()) == (None, {})
limit(resource.RLIM_INFINITY)
more = [switched() for _ in range(10)]
assert store.append(more) == list(range(len(good) + 1, len(good) + 11))
assert store.read(0, 10_000) == good + more
print(failures, len(good))
"""
    )
    path = tmp_path / "events.db"
    failures, good = map(int, run(program, path).split())
    assert failures > 2_010
    assert good > 10
    store = SqliteStore(path)
    assert store.last_position() == good + 10 == len(all_ids(store))
    store.close()


def test_a_full_disk_behind_a_bus(tmp_path: Path) -> None:
    """Who waits is told, what nobody waits for is kept and stored later, and handlers see only what was stored."""
    program = (
        FULL_DISK
        + """
import logging
logging.disable(logging.CRITICAL)

async def main():
    store = SqliteStore(sys.argv[1])
    bus = EventBus(store)
    seen = []
    bus.subscribe(handler=lambda event: seen.append(event.event_id))
    await bus.publish(switched(), wait_for_handlers=True)
    limit(200_000)
    told = 0
    kept = []
    while told < 5:
        big = switched(session_id="s" * 256, source="x" * 256)
        try:
            await asyncio.wait_for(bus.publish(big, wait_for_handlers=True), 10)
        except StoreError:
            told += 1
            assert big.event_id not in seen
            if told == 1:
                kept = [switched(source="k" * 256) for _ in range(50)]
                for event in kept:
                    await bus.publish(event)
                batch = [switched(source="m" * 256) for _ in range(50)]
                try:
                    await asyncio.wait_for(bus.publish_many(batch), 10)
                except StoreError:
                    told += 1
    assert not {event.event_id for event in kept} & set(seen)
    assert not await bus.drain(0.1)
    assert seen == [event.event_id for event in store.read(0, 10_000)]
    failures = bus.writer.figures.failures
    limit(resource.RLIM_INFINITY)
    assert await bus.drain(10)
    assert await asyncio.wait_for(bus.publish(switched(), wait_for_handlers=True), 10) == [None]
    assert seen == [event.event_id for event in store.read(0, 10_000)]
    assert [i for i in seen if i in {event.event_id for event in kept}] == [event.event_id for event in kept]
    assert await bus.close()
    print(told, failures, bus.writer.figures.lost)

asyncio.run(main())
"""
    )
    told, failures, lost = map(int, run(program, tmp_path / "events.db").split())
    assert told >= 5
    assert failures >= 5
    assert lost == 0


def test_closing_a_bus_while_the_disk_stays_full(tmp_path: Path) -> None:
    """It is bounded, says that not everything could be stored, and logs each event that is lost, in full."""
    program = (
        FULL_DISK
        + """
import io, logging
log = io.StringIO()
logging.basicConfig(stream=log)

async def main():
    bus = EventBus(SqliteStore(sys.argv[1]))
    await bus.publish(switched(), wait_for_handlers=True)
    limit(1_000)
    events = [switched(session_id=str(number)) for number in range(20)]
    for event in events:
        await bus.publish(event)
    closed = await asyncio.wait_for(bus.close(timeout=1.0), 8)
    text = log.getvalue()
    assert all(event.to_json() in text for event in events), text
    print(closed, bus.writer.figures.lost)

asyncio.run(main())
"""
    )
    assert run(program, tmp_path / "events.db") == "False 20\n"


async def test_a_poisoned_event_does_not_hold_up_its_neighbours(tmp_path: Path) -> None:
    """Spoilt after it was built, so that no store takes it: its publisher is told, all others are stored at once."""
    store = SqliteStore(tmp_path / "events.db", "NORMAL")
    bus = EventBus(store)
    events = [switched() for _ in range(50)]
    events[10].data["x"] = object()
    events[20].data["x"] = object()
    events[20].session_id = "nobody waits for this one"
    async with asyncio.timeout(10):
        waits = [asyncio.create_task(bus.publish(event, wait_for_handlers=True)) for event in events[:20]]
        for event in events[20:]:
            await bus.publish(event)
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
        assert await bus.drain()
    assert [index for index, outcome in enumerate(outcomes) if outcome is not None] == [10]
    assert "can't be stored" in str(outcomes[10])
    assert sorted(event.event_id for event in store.read(0, 100)) == sorted(
        event.event_id for index, event in enumerate(events) if index not in (10, 20)
    )
    assert bus.writer.figures.lost == 1
    await bus.close()
    store.close()


async def test_a_commit_in_doubt_is_looked_up(tmp_path: Path) -> None:
    """A commit that failed after all was written: the same events again are duplicates, and new ones get new places."""
    path = tmp_path / "events.db"
    store = SqliteStore(path)
    first = [switched() for _ in range(3)]
    store.append(first)
    writer = store._writer

    class FailsAfterCommit:
        """Says that the commit failed, when it did not."""

        def __getattr__(self, name: str) -> Any:
            return getattr(writer, name)

        def execute(self, statement: str, *arguments: Any) -> Any:
            """Run it."""
            result = writer.execute(statement, *arguments)
            if statement == "COMMIT":
                raise sqlite3.OperationalError("disk I/O error")
            return result

    second = [switched() for _ in range(3)]
    store._writer = FailsAfterCommit()  # type: ignore[assignment]
    with pytest.raises(StoreError):
        store.append(second)
    store._writer = writer
    third = [switched() for _ in range(3)]
    assert store.append([*second, *third]) == [0, 0, 0, 7, 8, 9]
    assert all_ids(store) == [event.event_id for event in (*first, *second, *third)]
    store.close()
