"""Events in one SQLite file: the embedded default."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

import orjson

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.errors import InvalidEvent, StoreError
from agent_runtime.events.store.base import DeadLetter
from agent_runtime.events.store.clock import RecordingClock
from agent_runtime.events.store.rows import COLUMNS, event_of, rows_of

_VERSION = 1
_SCHEMA = f"""
PRAGMA user_version = {_VERSION};
CREATE TABLE IF NOT EXISTS events (
    position       INTEGER PRIMARY KEY,
    event_id       TEXT NOT NULL UNIQUE,
    recorded_ns    INTEGER NOT NULL,
    event_type     TEXT NOT NULL,
    time_us        INTEGER NOT NULL,
    session_id     TEXT,
    correlation_id TEXT,
    causation_id   TEXT,
    source         TEXT NOT NULL,
    version        TEXT NOT NULL,
    data           TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_by_session ON events (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_by_correlation ON events (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_by_type ON events (event_type);
CREATE TABLE IF NOT EXISTS checkpoints (name TEXT PRIMARY KEY, position INTEGER NOT NULL, state BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS dead_letters (
    letter_id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL, consumer TEXT NOT NULL, event_id TEXT NOT NULL, payload TEXT NOT NULL, error TEXT NOT NULL,
    attempts INTEGER NOT NULL, failed_ns INTEGER NOT NULL
);
"""
_INSERT = f"INSERT INTO events ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (event_id) DO NOTHING"
_LETTER = "queue, consumer, event_id, payload, error, attempts, failed_ns"
# What sqlite3 and orjson raise when it is an event that is wrong, and not the file.
_UNFIT = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    TypeError,
    ValueError,
    OverflowError,
)
_COUNT_LETTERS = "SELECT queue, count(*) FROM dead_letters GROUP BY queue"


# Large events are read in smaller lots.
READ_BYTES = 8 * 1024 * 1024


class SqliteStore:
    """One writer, any number of readers (WAL). A second process on the same file is refused when it opens it.

    Args:
        path: the database file; its folder must exist.
        synchronous: SQLite's ``synchronous`` setting. FULL keeps every acknowledged event through a power failure,
            NORMAL through a crash of the process only.

    Raises:
        StoreError: the file can't be opened, is no event store, or is held by another process.
    """

    blocking = True

    def __init__(self, path: str | Path, synchronous: str = "FULL") -> None:
        if synchronous.upper() not in ("FULL", "NORMAL", "EXTRA"):
            raise StoreError(f"synchronous must be FULL, NORMAL or EXTRA, got {synchronous!r}")
        self._path = str(path)
        self._lock = threading.Lock()
        self._connections: list[sqlite3.Connection] = []
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._lock_file = self._take_lock()
        try:
            self._writer = self._connect()
            if self._writer.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise sqlite3.OperationalError("this place can't have a write-ahead log")
            self._writer.execute(f"PRAGMA synchronous = {synchronous}")
            version = self._writer.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"its schema is version {version}, this program knows {_VERSION}")
            self._writer.executescript(_SCHEMA)
            self._last, recorded_ns = self._newest()
            self._letters: dict[str, int] = dict(self._writer.execute(_COUNT_LETTERS).fetchall())
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StoreError(f"can't open the event store {self._path}: {error}") from error
        self._in_doubt = False
        self._clock = RecordingClock(recorded_ns, self._last)

    def _take_lock(self) -> int:
        try:
            lock_file = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"can't open the event store {self._path}: {error}") from error
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock_file)
            raise StoreError(
                f"the event store {self._path} is in use by another process, or twice by this one"
            ) from None
        return lock_file

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=10, isolation_level=None, check_same_thread=False)
        self._connections.append(connection)
        return connection

    def _newest(self) -> tuple[int, int]:
        found = self._writer.execute(
            "SELECT position, recorded_ns FROM events ORDER BY position DESC LIMIT 1"
        ).fetchone()
        return found or (0, 0)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the event store is closed")

    def append(self, events: Sequence[BaseEvent]) -> list[int]:
        """See ``EventStore.append``.

        Raises:
            StoreError: the file could not be written. InvalidEvent: one of the events can't be stored, so none was.
        """
        if not events:
            return []
        with self._lock:
            self._check_open()
            recorded_ns = self._clock.begin()
            try:
                return self._append(events, recorded_ns)
            except _UNFIT as error:
                self._in_doubt = True
                raise InvalidEvent("", f"can't be stored: {error}") from error
            except sqlite3.Error as error:
                self._in_doubt = True
                raise StoreError(f"can't commit {len(events)} events: {error}") from error
            finally:
                self._roll_back()
                self._clock.end(self._last)

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            with suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")

    def _append(self, events: Sequence[BaseEvent], recorded_ns: int) -> list[int]:
        writer = self._writer
        if self._in_doubt:
            # A commit that failed may have come through all the same.
            self._last, _ = self._newest()
            self._in_doubt = False
        last = self._last
        rows = rows_of(events, last, recorded_ns)
        writer.execute("BEGIN IMMEDIATE")
        if writer.executemany(_INSERT, rows).rowcount == len(rows):
            fresh = list(events)
        else:
            # Some are known already. That is rare, so only then is it worth asking which.
            writer.execute("ROLLBACK")
            writer.execute("BEGIN IMMEDIATE")
            known = self._known(writer, [event.event_id for event in events])
            fresh = []
            for event in events:
                if event.event_id not in known:
                    known.add(event.event_id)
                    fresh.append(event)
            writer.executemany(_INSERT, rows_of(fresh, last, recorded_ns))
        writer.execute("COMMIT")
        self._last = last + len(fresh)
        for position, event in enumerate(fresh, last + 1):
            event.position = position
            event.recorded_ns = recorded_ns
        if len(fresh) == len(events):
            return list(range(last + 1, self._last + 1))
        positions, new = [], iter(fresh)
        expected = next(new, None)
        for event in events:
            if event is expected:
                positions.append(event.position)
                expected = next(new, None)
            else:
                positions.append(0)
        return positions

    @staticmethod
    def _known(connection: sqlite3.Connection, event_ids: list[str]) -> set[str]:
        query = "SELECT event_id FROM events WHERE event_id IN (SELECT value FROM json_each(?))"
        return {row[0] for row in connection.execute(query, (orjson.dumps(event_ids).decode(),))}

    def read(self, after: int, limit: int) -> list[BaseEvent]:
        """See ``EventStore.read``."""
        query = f"SELECT {COLUMNS} FROM events WHERE position > ? ORDER BY position LIMIT ?"
        return [event_of(row) for row in self._fetch(query, (after, limit), READ_BYTES)]

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
        """See ``EventStore.query``."""
        where = "position > ?"
        values: list[Any] = [after]
        for column, value in (("session_id", session_id), ("correlation_id", correlation_id)):
            if value is not None:
                where += f" AND {column} = ?"
                values.append(value)
        types = [] if event_types is None else list(dict.fromkeys(event_types))
        tail = f"ORDER BY position {'DESC' if newest else 'ASC'} LIMIT {int(limit)}"
        if len(types) > 1 and len(values) == 1:
            # The first so many of each type, merged: with IN (…) SQLite would sort all that there are.
            part = f"SELECT * FROM (SELECT {COLUMNS} FROM events WHERE {where} AND event_type = ? {tail})"
            values = [value for event_type in types for value in (after, event_type)]
            found = self._events(f"{' UNION ALL '.join([part] * len(types))} {tail}", values)
        else:
            if event_types is not None:
                # A session or a turn is narrow. The unary plus keeps SQLite from choosing the type's index instead.
                column = "event_type" if len(values) == 1 else "+event_type"
                where += f" AND {column} IN ({','.join('?' * len(types))})"
            found = self._events(f"SELECT {COLUMNS} FROM events WHERE {where} {tail}", [*values, *types])
        return found[::-1] if newest else found

    def _events(self, query: str, values: Sequence[Any]) -> list[BaseEvent]:
        return [event_of(row) for row in self._fetch(query, values)]

    def _fetch(self, query: str, values: Sequence[Any] = (), enough: int | None = None) -> list[Any]:
        """All rows, read on a connection that no other thread uses meanwhile; or the first of them, until their last
        columns have ``enough`` characters."""
        self._check_open()
        try:
            reader = self._idle.pop()
        except IndexError:
            reader = self._new_reader()
        try:
            with closing(reader.execute(query, values)) as rows:
                return rows.fetchall() if enough is None else _first(rows, enough)
        except sqlite3.Error as error:
            raise StoreError(f"can't read from the event store: {error}") from error
        finally:
            self._idle.append(reader)

    def _new_reader(self) -> sqlite3.Connection:
        with self._lock:
            self._check_open()
            try:
                reader = self._connect()
                reader.execute("PRAGMA query_only = ON")
            except sqlite3.Error as error:
                raise StoreError(f"can't read from the event store: {error}") from error
            return reader

    def get(self, event_id: str) -> BaseEvent | None:
        """See ``EventStore.get``."""
        found = self._events(f"SELECT {COLUMNS} FROM events WHERE event_id = ?", (event_id,))
        return found[0] if found else None

    def last_position(self) -> int:
        """See ``EventStore.last_position``."""
        return self._last

    def watermark(self) -> tuple[int, int]:
        """See ``EventStore.watermark``."""
        return self._clock.watermark()

    def size_bytes(self) -> int:
        """See ``EventStore.size_bytes``: the file and its log."""
        return sum(os.path.getsize(name) for name in (self._path, f"{self._path}-wal") if os.path.exists(name))

    def save_checkpoint(self, name: str, position: int, state: bytes) -> None:
        """See ``EventStore.save_checkpoint``."""
        with self._writing():
            self._writer.execute("INSERT OR REPLACE INTO checkpoints VALUES (?,?,?)", (name, position, state))

    def load_checkpoint(self, name: str) -> tuple[int, bytes] | None:
        """See ``EventStore.load_checkpoint``."""
        rows = self._fetch("SELECT position, state FROM checkpoints WHERE name = ?", (name,))
        return rows[0] if rows else None

    def add_dead_letter(self, letter: DeadLetter) -> int:
        """See ``EventStore.add_dead_letter``."""
        return self.add_dead_letters((letter,))[0]

    def add_dead_letters(self, letters: Sequence[DeadLetter]) -> list[int]:
        """See ``EventStore.add_dead_letters``."""
        insert = f"INSERT INTO dead_letters ({_LETTER}) VALUES (?,?,?,?,?,?,?)"
        with self._writing():
            ids = [self._writer.execute(insert, astuple(letter)[:-1]).lastrowid or 0 for letter in letters]
        for letter in letters:
            self._letters[letter.queue] = self._letters.get(letter.queue, 0) + 1
        return ids

    def dead_letters(self, limit: int = 100, after: int = 0) -> list[DeadLetter]:
        """See ``EventStore.dead_letters``."""
        query = f"SELECT {_LETTER}, letter_id FROM dead_letters WHERE letter_id > ? ORDER BY letter_id LIMIT ?"
        return [DeadLetter(*row) for row in self._fetch(query, (after, limit))]

    def count_dead_letters(self) -> dict[str, int]:
        """See ``EventStore.count_dead_letters``."""
        return {queue: count for queue, count in self._letters.copy().items() if count}

    def remove_dead_letter(self, letter_id: int) -> bool:
        """See ``EventStore.remove_dead_letter``."""
        with self._writing():
            removed = self._writer.execute(
                "DELETE FROM dead_letters WHERE letter_id = ? RETURNING queue", (letter_id,)
            ).fetchall()
        for (queue,) in removed:
            self._letters[queue] -= 1
        return bool(removed)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction of its own."""
        with self._lock:
            self._check_open()
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield
                self._writer.execute("COMMIT")
            except sqlite3.Error as error:
                raise StoreError(f"can't write to the event store: {error}") from error
            finally:
                self._roll_back()

    def close(self) -> None:
        """See ``EventStore.close``."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for connection in self._connections:
                connection.close()
            os.close(self._lock_file)


def _first(rows: Iterable[Any], enough: int) -> list[Any]:
    found = []
    for row in rows:
        found.append(row)
        enough -= len(row[-1])
        if enough <= 0:
            break
    return found
