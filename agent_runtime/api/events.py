"""Reading the record: pages of events, the live tail, and the dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Annotated, Any, NamedTuple

import orjson
from fastapi import APIRouter, Header, Path, Query
from starlette.responses import Response, StreamingResponse

from agent_runtime.api.answers import Json, Refusal
from agent_runtime.events.base_event import BaseEvent, as_event_type, format_time_us
from agent_runtime.events.domain_events import DOMAIN_EVENTS
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.store.base import DeadLetter, EventStore

KEEP_ALIVE_SECONDS = 15.0
CHUNK = 200
TEXT_BYTES = 64 * 1024
PART = 101
PAGE_BYTES = 8 * 1024 * 1024
MAX_POSITION = 2**63 - 1

Cursor = Annotated[int, Query(ge=0, le=MAX_POSITION, description="Where the last page ended: its `next_cursor`.")]
Limit = Annotated[int, Query(ge=1, le=1_000)]


class Filters(NamedTuple):
    """What is asked for; None is everything."""

    session_id: str | None
    correlation_id: str | None
    event_type: str | None

    def match(self, event: BaseEvent) -> bool:
        """Whether ``event`` is asked for."""
        return (
            (self.session_id is None or event.session_id == self.session_id)
            and (self.correlation_id is None or event.correlation_id == self.correlation_id)
            and (self.event_type is None or event.event_type == self.event_type)
        )


def canonical_type(spelling: str | None) -> str | None:
    """An event type in our spelling, from either.

    Raises:
        InvalidEvent: there is no such type.
    """
    if spelling is None or spelling in DOMAIN_EVENTS:
        return spelling
    return str(as_event_type(spelling))


def event_row(event: BaseEvent) -> dict[str, Any]:
    """The ten keys of an event, its position, and when the store took it."""
    row = event.to_dict()
    row["position"] = event.position
    row["recorded_at"] = format_time_us(event.recorded_ns // 1_000)
    return row


def events_router(bus: EventBus, stopping: asyncio.Event) -> APIRouter:
    """The routes.

    Args:
        bus: whose store is read.
        stopping: set when the service stops: streams end then.
    """
    router = APIRouter(tags=["events"])

    @router.get("/events")
    async def get_events(
        session_id: str | None = None,
        correlation_id: str | None = None,
        event_type: str | None = None,
        cursor: Cursor = 0,
        limit: Limit = 100,
    ) -> Response:
        """Events in store order, a page at a time; a page of large events has fewer than `limit`."""
        kind = canonical_type(event_type)
        page, more = await read_page(bus.store, Filters(session_id, correlation_id, kind), cursor, limit)
        next_cursor = page[-1].position if more else None
        return Json({"events": [event_row(event) for event in page], "next_cursor": next_cursor})

    @router.get("/events/stream")
    async def stream_events(
        session_id: str | None = None,
        correlation_id: str | None = None,
        event_type: str | None = None,
        last_event_id: Annotated[str | None, Header(description="Position to go on behind; now by default.")] = None,
    ) -> Response:
        """Server-Sent Events: each event as it is stored, its position as id; `event: end` when the service stops."""
        filters = Filters(session_id, correlation_id, canonical_type(event_type))
        after = bus.store.last_position() if last_event_id is None else _position(last_event_id)
        return StreamingResponse(
            tail(bus, stopping, filters, after),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @router.get("/events/dead-letters")
    async def get_dead_letters(cursor: Cursor = 0, limit: Limit = 100) -> Response:
        """What handlers and the span exporter gave up on, oldest first."""
        found = await asyncio.to_thread(bus.store.dead_letters, limit + 1, cursor)
        page = found[:limit]
        next_cursor = page[-1].letter_id if len(found) > limit else None
        return Json({"dead_letters": [letter_row(letter) for letter in page], "next_cursor": next_cursor})

    @router.post("/events/dead-letters/{letter_id}/retry")
    async def retry_dead_letter(letter_id: Annotated[int, Path(ge=1, le=MAX_POSITION)]) -> Response:
        """Give a handler's dead letter to it once more; it is removed if the handler succeeds."""
        try:
            succeeded = await bus.retry_dead_letter(letter_id)
        except LookupError as error:
            raise Refusal(404, str(error.args[0])) from None
        return Json({"letter_id": letter_id, "succeeded": succeeded})

    return router


async def read_page(store: EventStore, filters: Filters, after: int, limit: int) -> tuple[list[BaseEvent], bool]:
    """At most ``limit`` events behind the position ``after``, about ``PAGE_BYTES`` of them; and whether there are more.

    It is read in parts, so that not much more than that is ever in memory.
    """
    page: list[BaseEvent] = []
    size = 0
    while True:
        wanted = min(PART, limit + 1 - len(page))
        part = await asyncio.to_thread(
            store.query,
            session_id=filters.session_id,
            correlation_id=filters.correlation_id,
            event_types=None if filters.event_type is None else [filters.event_type],
            after=page[-1].position if page else after,
            limit=wanted,
        )
        for event in part:
            if size >= PAGE_BYTES:
                return page, True
            page.append(event)
            size += event.size
        if len(part) < wanted or len(page) > limit:
            return page[:limit], len(page) > limit


async def tail(bus: EventBus, stopping: asyncio.Event, filters: Filters, after: int) -> AsyncIterator[bytes]:
    """Server-Sent Events behind the position ``after``, until ``stopping`` is set."""
    yield b"retry: 1000\n\n"
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        while not stopping.is_set():
            events = await bus.feed.read(after, CHUNK)
            if events:
                after = events[-1].position
                for text in texts(filter(filters.match, events)):
                    yield text
                continue
            more = asyncio.ensure_future(bus.feed.wait(after, KEEP_ALIVE_SECONDS))
            try:
                await asyncio.wait((more, stopped), return_when=asyncio.FIRST_COMPLETED)
            finally:
                more.cancel()
            if not stopping.is_set() and after >= bus.store.last_position():
                yield b": keep-alive\n\n"
        yield b'event: end\ndata: {"reason":"shutdown"}\n\n'
    finally:
        stopped.cancel()


def texts(events: Iterable[BaseEvent]) -> Iterator[bytes]:
    """The events as Server-Sent Events, several together: a reader that is slow holds no more than one text."""
    held = bytearray()
    for event in events:
        held += sse(event)
        if len(held) >= TEXT_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def sse(event: BaseEvent) -> bytes:
    """One event as a Server-Sent Event."""
    data = orjson.dumps(event_row(event))
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.position, event.event_type.encode(), data)


def letter_row(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter as JSON; its payload is what would have been delivered."""
    return {
        "letter_id": letter.letter_id,
        "queue": letter.queue,
        "consumer": letter.consumer,
        "event_id": letter.event_id,
        "payload": _parsed(letter.payload),
        "error": letter.error,
        "attempts": letter.attempts,
        "failed_at": format_time_us(letter.failed_ns // 1_000),
    }


def _parsed(payload: str) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return payload


def _position(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:20]) <= MAX_POSITION):
        raise Refusal(400, f"Last-Event-ID must be a position, a whole number, got {text[:40]!r}")
    return int(text)
