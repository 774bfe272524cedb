"""Events in one SQLite file: the embedded default."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.errors import StoreError
from agent_runtime.events.parsing import rebuild
from agent_runtime.events.store.base import DeadLetter
from agent_runtime.events.store.clock import RecordingClock

_SCHEMA = """
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
_COLUMNS = "position, event_id, recorded_ns, event_type, time_us, session_id, correlation_id, causation_id, source, version, data"
_INSERT = f"INSERT OR IGNORE INTO events ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)"
_LETTER = "queue, consumer, event_id, payload, error, attempts, failed_ns"


class SqliteStore:
    """One writer, any number of readers (WAL). A second process on the same file is refused when it opens it.

    Args:
        path: the database file; its folder must exist.
        synchronous: SQLite's ``synchronous`` setting. FULL keeps every acknowledged event through a power failure, NORMAL
            through a crash of the process only.

    Raises:
        StoreError: the file can't be opened, is no database, or is held by another process.
    """

    blocking = True

    def __init__(self, path: str | Path, synchronous: str = "FULL") -> None:
        if synchronous.upper() not in ("FULL", "NORMAL", "EXTRA"):
            raise StoreError(f"synchronous must be FULL, NORMAL or EXTRA, got {synchronous!r}")
        self._path = str(path)
        self._lock = threading.Lock()
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False
        self._lock_file = self._take_lock()
        try:
            self._writer = self._connect()
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute(f"PRAGMA synchronous = {synchronous}")
            self._writer.executescript(_SCHEMA)
            row = self._writer.execute(
                "SELECT position, recorded_ns FROM events ORDER BY position DESC LIMIT 1"
            ).fetchone()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StoreError(f"can't open the event store {self._path}: {error}") from error
        self._last, recorded_ns = row or (0, 0)
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
            raise StoreError(f"the event store {self._path} is in use by another process") from None
        return lock_file

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=10, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA busy_timeout = 10000")
        self._connections.append(connection)
        return connection

    def _reader(self) -> sqlite3.Connection:
        """This thread's own connection for reading."""
        if self._closed:
            raise StoreError("the event store is closed")
        reader: sqlite3.Connection | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self._connect()
            reader.execute("PRAGMA query_only = ON")
        return reader

    def append(self, events: Sequence[BaseEvent]) -> list[int]:
        """See ``EventStore.append``."""
        with self._lock:
            if self._closed:
                raise StoreError("the event store is closed")
            recorded_ns = self._clock.begin()
            try:
                return self._append(events, recorded_ns)
            except sqlite3.Error as error:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise StoreError(f"can't commit {len(events)} events: {error}") from error
            finally:
                self._clock.end(self._last)

    def _append(self, events: Sequence[BaseEvent], recorded_ns: int) -> list[int]:
        writer, last = self._writer, self._last
        rows = _rows(events, last, recorded_ns)
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
            writer.executemany(_INSERT, _rows(fresh, last, recorded_ns))
        writer.execute("COMMIT")
        self._last = last + len(fresh)
        for position, event in enumerate(fresh, last + 1):
            event.position = position
            event.recorded_ns = recorded_ns
        if len(fresh) == len(events):
            return list(range(last + 1, self._last + 1))
        # Two copies of one event in a batch are two objects: only the one that was stored got a position just now.
        return [event.position if event.position > last else 0 for event in events]

    @staticmethod
    def _known(connection: sqlite3.Connection, event_ids: list[str]) -> set[str]:
        query = "SELECT event_id FROM events WHERE event_id IN (SELECT value FROM json_each(?))"
        return {row[0] for row in connection.execute(query, (orjson.dumps(event_ids).decode(),))}

    def read(self, after: int, limit: int) -> list[BaseEvent]:
        """See ``EventStore.read``."""
        return self._select("position > ?", [after], "ASC", limit)

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
        where, values = ["position > ?"], [after]  # type: tuple[list[str], list[Any]]
        for column, value in (("session_id", session_id), ("correlation_id", correlation_id)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        if event_types is not None:
            # A unary plus keeps SQLite from choosing the type's index where a session's or a turn's is far narrower.
            column = "event_type" if len(where) == 1 else "+event_type"
            where.append(f"{column} IN ({','.join('?' * len(event_types))})")
            values.extend(event_types)
        found = self._select(" AND ".join(where), values, "DESC" if newest else "ASC", limit)
        return found[::-1] if newest else found

    def _select(self, where: str, values: list[Any], order: str, limit: int) -> list[BaseEvent]:
        query = f"SELECT {_COLUMNS} FROM events WHERE {where} ORDER BY position {order} LIMIT ?"
        try:
            rows = self._reader().execute(query, (*values, limit)).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"can't read events: {error}") from error
        return [_event(row) for row in rows]

    def get(self, event_id: str) -> BaseEvent | None:
        """See ``EventStore.get``."""
        found = self._select("event_id = ?", [event_id], "ASC", 1)
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
        self._write("INSERT OR REPLACE INTO checkpoints VALUES (?,?,?)", (name, position, state))

    def load_checkpoint(self, name: str) -> tuple[int, bytes] | None:
        """See ``EventStore.load_checkpoint``."""
        row = self._reader().execute("SELECT position, state FROM checkpoints WHERE name = ?", (name,)).fetchone()
        return None if row is None else (row[0], row[1])

    def add_dead_letter(self, letter: DeadLetter) -> int:
        """See ``EventStore.add_dead_letter``."""
        values = (
            letter.queue,
            letter.consumer,
            letter.event_id,
            letter.payload,
            letter.error,
            letter.attempts,
            letter.failed_ns,
        )
        cursor = self._write(f"INSERT INTO dead_letters ({_LETTER}) VALUES (?,?,?,?,?,?,?)", values)
        return cursor.lastrowid or 0

    def dead_letters(self, limit: int = 100, after: int = 0) -> list[DeadLetter]:
        """See ``EventStore.dead_letters``."""
        query = f"SELECT {_LETTER}, letter_id FROM dead_letters WHERE letter_id > ? ORDER BY letter_id LIMIT ?"
        return [DeadLetter(*row) for row in self._reader().execute(query, (after, limit))]

    def count_dead_letters(self) -> dict[str, int]:
        """See ``EventStore.count_dead_letters``."""
        return dict(self._reader().execute("SELECT queue, count(*) FROM dead_letters GROUP BY queue").fetchall())

    def remove_dead_letter(self, letter_id: int) -> bool:
        """See ``EventStore.remove_dead_letter``."""
        return self._write("DELETE FROM dead_letters WHERE letter_id = ?", (letter_id,)).rowcount == 1

    def _write(self, statement: str, values: Iterable[Any]) -> sqlite3.Cursor:
        with self._lock:
            if self._closed:
                raise StoreError("the event store is closed")
            try:
                return self._writer.execute(statement, tuple(values))
            except sqlite3.Error as error:
                raise StoreError(f"can't write to the event store: {error}") from error

    def close(self) -> None:
        """See ``EventStore.close``."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for connection in self._connections:
                connection.close()
            os.close(self._lock_file)


def _rows(events: Sequence[BaseEvent], last: int, recorded_ns: int) -> list[tuple[Any, ...]]:
    dumps = orjson.dumps
    return [
        (
            position,
            event.event_id,
            recorded_ns,
            event.event_type,
            event.time_us,
            event.session_id,
            event.correlation_id,
            event.causation_id,
            event.source,
            event.version,
            dumps(event.data).decode(),
        )
        for position, event in enumerate(events, last + 1)
    ]


def _event(row: tuple[Any, ...]) -> BaseEvent:
    (
        position,
        event_id,
        recorded_ns,
        event_type,
        time_us,
        session_id,
        correlation_id,
        causation_id,
        source,
        version,
        data,
    ) = row
    keys = {
        "event_id": event_id,
        "session_id": session_id,
        "correlation_id": correlation_id,
        "causation_id": causation_id,
        "data": orjson.loads(data),
        "source": source,
        "version": version,
    }
    return rebuild(keys, event_type, time_us, position, recorded_ns)
