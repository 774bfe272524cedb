"""The event: an immutable fact with ten keys, and two more that the store gives it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar, TypedDict

import orjson

from agent_runtime.events.correlation import current, random_bits
from agent_runtime.events.errors import InvalidEvent
from agent_runtime.events.event_types import CATEGORY_OF, EventCategory, EventType
from agent_runtime.events.fields import Field, check_data, name_problem

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST_US = int((datetime(2000, 1, 1, tzinfo=UTC) - EPOCH).total_seconds()) * 1_000_000
LATEST_US = int((datetime(2200, 1, 1, tzinfo=UTC) - EPOCH).total_seconds()) * 1_000_000


class Common(TypedDict, total=False):
    """The keywords that every event's constructor takes."""

    session_id: str | None
    correlation_id: str | None
    causation_id: str | None
    source: str
    timestamp: datetime | str | None
    event_id: str | None


def new_event_id() -> str:
    """A UUIDv7 (RFC 9562): ordered by time, so that a store's index grows at its end."""
    bits = random_bits(74)
    ms = time.time_ns() // 1_000_000
    tail = f"{0x8000_0000_0000_0000 | (bits >> 12):016x}"
    return f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{bits & 0xFFF:03x}-{tail[:4]}-{tail[4:]}"


class BaseEvent:
    """An event.

    Args:
        event_type: one of ``EventType``, in either spelling; a concrete class brings its own.
        data: a JSON object; it is checked here, and belongs to the event from here on.
        event_category: ignored where the type decides it.
        session_id, correlation_id, causation_id: ids; the last two default from the context (``EventCorrelation``).
        timestamp: aware datetime or RFC 3339 text; now by default. Kept to the microsecond.
        event_id: a UUID; minted by default.

    Attributes:
        time_us: the timestamp in microseconds since 1970.
        position: place in the store, 1, 2, 3 …; 0 until it is stored.
        recorded_ns: when the store took it, nanoseconds since 1970, never decreasing along positions; 0 until it is
            stored.
        size: about how many bytes a durable store keeps of it; 0 until it is stored there.

    Raises:
        InvalidEvent: something about it can't be stored; the message says what and where.
    """

    __slots__ = (
        "event_id",
        "event_type",
        "event_category",
        "time_us",
        "session_id",
        "correlation_id",
        "causation_id",
        "data",
        "source",
        "version",
        "position",
        "recorded_ns",
        "size",
    )

    TYPE: ClassVar[EventType | None] = None
    FIELDS: ClassVar[tuple[Field, ...]] = ()

    event_id: str
    event_type: EventType | str
    event_category: EventCategory
    time_us: int
    session_id: str | None
    correlation_id: str | None
    causation_id: str | None
    data: dict[str, Any]
    source: str
    version: str
    position: int
    recorded_ns: int
    size: int

    def __init__(
        self,
        event_type: EventType | str | None = None,
        data: dict[str, Any] | None = None,
        *,
        event_category: EventCategory | str | None = None,
        session_id: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        source: str = "",
        timestamp: datetime | str | None = None,
        event_id: str | None = None,
        version: str = "1.0",
    ) -> None:
        kind = self.TYPE
        if kind is None:
            kind = as_event_type(event_type)
        context = current.get()
        self.event_type = kind
        self.event_category = CATEGORY_OF[kind]
        self.event_id = new_event_id() if event_id is None else as_uuid(event_id, "event_id")
        self.time_us = time.time_ns() // 1000 if timestamp is None else as_time_us(timestamp)
        self.session_id = session_id
        self.correlation_id = context.correlation_id if correlation_id is None else correlation_id
        self.causation_id = context.event_id if causation_id is None else causation_id
        self.data = {} if data is None else data
        self.source = source
        self.version = version
        self.position = 0
        self.recorded_ns = 0
        self.size = 0
        self.check()

    def check(self) -> None:
        """Hold the event against the rules of the edge again (after a middleware has changed its data, for instance).

        Raises:
            InvalidEvent: as the constructor.
        """
        if self.session_id is not None:
            self.session_id = _as_id(self.session_id, "session_id")
        if self.correlation_id is not None:
            self.correlation_id = _as_id(self.correlation_id, "correlation_id")
        if self.causation_id is not None:
            self.causation_id = _as_id(self.causation_id, "causation_id")
        if self.source and _as_id(self.source, "source") != self.source:
            self.source = str(self.source)
        if type(self.data) is not dict:
            raise InvalidEvent("data", f"expected an object, got {type(self.data).__name__}")
        check_data(self.data, self.FIELDS)

    @property
    def timestamp(self) -> datetime:
        """When it happened: aware, UTC."""
        seconds, micros = divmod(self.time_us, 1_000_000)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)

    def to_dict(self) -> dict[str, Any]:
        """The ten keys, ready for JSON."""
        return {
            "event_id": self.event_id,
            "event_type": str(self.event_type),
            "event_category": str(self.event_category),
            "timestamp": format_time_us(self.time_us),
            "session_id": self.session_id,
            "correlation_id": self.correlation_id,
            "causation_id": self.causation_id,
            "data": self.data,
            "source": self.source,
            "version": self.version,
        }

    def to_json(self) -> str:
        """The ten keys as one line of JSON; ``parse_event`` gives an equal event back."""
        return orjson.dumps(self.to_dict()).decode()

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, BaseEvent) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.event_id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.event_type} {self.event_id} session={self.session_id!r}>"


def as_event_type(value: object) -> EventType:
    """``value`` as an ``EventType``, from either spelling.

    Raises:
        InvalidEvent: it is no string, or no type that exists.
    """
    if not isinstance(value, str):
        raise InvalidEvent("event_type", "is required and must be a string")
    try:
        return EventType(value)
    except ValueError:
        shown = value if len(value) <= 80 else f"{value[:80]}…"
        raise InvalidEvent("event_type", f"there is no event type {shown!r}") from None


def _as_id(value: Any, where: str) -> str:
    if type(value) is not str:
        if not isinstance(value, str):
            raise InvalidEvent(where, f"expected a string, got {type(value).__name__}")
        value = str(value)
    if not (value.isascii() and value.isprintable() and 0 < len(value) <= 256):
        problem = name_problem(value)
        if problem is not None:
            raise InvalidEvent(where, problem)
    return value  # type: ignore[no-any-return]


_HEX = frozenset("0123456789abcdef")


def as_uuid(value: Any, where: str) -> str:
    """``value`` as the canonical text of a UUID: lower case, with hyphens.

    Raises:
        InvalidEvent: it is not a UUID.
    """
    if isinstance(value, str):
        text = value.lower()
        digits = text.replace("-", "")
        if len(digits) == 32 and _HEX.issuperset(digits):
            if len(text) == 36 and text[8] == text[13] == text[18] == text[23] == "-":
                return text
            if len(text) == 32:
                return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    shown = repr(value)
    raise InvalidEvent(where, f"must be a UUID, got {shown if len(shown) <= 80 else shown[:80] + '…'}")


@lru_cache(maxsize=4096)
def _seconds_of(text: str) -> int:
    """Seconds since 1970 of ``YYYY-MM-DDTHH:MM:SS``, UTC. Events of one moment share it, so it is cached."""
    return int((datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH).total_seconds())


@lru_cache(maxsize=4096)
def _text_of(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def as_time_us(value: datetime | str) -> int:
    """Microseconds since 1970 of an aware datetime or RFC 3339 text; a time without offset counts as UTC.

    Raises:
        InvalidEvent: it is no time, or lies outside the years 2000 to 2199.
    """
    try:
        if (
            type(value) is str
            and len(value) == 27
            and value[26] == "Z"
            and value[19] == "."
            and value[20:26].isdecimal()
        ):
            time_us = _seconds_of(value[:19]) * 1_000_000 + int(value[20:26])
        else:
            moment = datetime.fromisoformat(value.upper()) if isinstance(value, str) else value
            if not isinstance(moment, datetime):
                raise InvalidEvent("timestamp", f"expected RFC 3339 text, got {type(value).__name__}")
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            delta = moment - EPOCH
            time_us = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    except (ValueError, OverflowError) as error:
        if isinstance(error, InvalidEvent):
            raise
        shown = repr(value)
        raise InvalidEvent("timestamp", f"is not RFC 3339: {shown if len(shown) <= 60 else shown[:60] + '…'}") from None
    if not EARLIEST_US <= time_us < LATEST_US:
        raise InvalidEvent("timestamp", f"must lie in the years 2000 to 2199, got {value}")
    return time_us


def format_time_us(time_us: int) -> str:
    """RFC 3339 in UTC with microseconds and ``Z``."""
    seconds, micros = divmod(time_us, 1_000_000)
    return f"{_text_of(seconds)}.{micros:06d}Z"


def fill(
    event: BaseEvent,
    event_type: EventType | str,
    category: EventCategory,
    keys: Mapping[str, Any],
    time_us: int,
) -> BaseEvent:
    """Set every slot of an empty ``event`` from already normalised ``keys``; nothing is checked here."""
    event.event_type = event_type
    event.event_category = category
    event.event_id = keys["event_id"]
    event.time_us = time_us
    event.session_id = keys["session_id"]
    event.correlation_id = keys["correlation_id"]
    event.causation_id = keys["causation_id"]
    event.data = keys["data"]
    event.source = keys["source"]
    event.version = keys["version"]
    event.position = 0
    event.recorded_ns = 0
    event.size = 0
    return event
