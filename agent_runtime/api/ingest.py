"""``POST /events``: the sidecar's door. Plain ASGI: it is the one endpoint whose own cost is felt."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from starlette.types import Receive, Scope, Send

from agent_runtime.api.answers import Json, Refusal
from agent_runtime.api.body import Room, read_body
from agent_runtime.api.ingest_formats import Decoded, decode
from agent_runtime.events.errors import BusClosed, Overloaded, StoreError
from agent_runtime.events.event_bus import EventBus
from telemetry.pipeline_metrics import DoorFigures

logger = logging.getLogger("agent_runtime.api")

# A body above this size is read on a thread, so that it holds nobody else up for longer than a slice.
THREAD_BYTES = 1024 * 1024
# All bodies that are being read, or whose events wait for the store, have together as much as so many of the largest.
BODIES = 8


class Ingest:
    """The endpoint.

    Args:
        bus: where events go.
        figures: where it is counted what came, and what became of it.
        max_body_bytes: largest body, before and after decompression.
        max_events: most events in one request.
    """

    def __init__(self, bus: EventBus, figures: DoorFigures, max_body_bytes: int, max_events: int) -> None:
        self._bus = bus
        self._figures = figures
        self._max_body_bytes = max_body_bytes
        self._max_events = max_events
        self._room = Room(BODIES * max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the events of one request; answer 202 when they are committed."""
        try:
            answer = await self._take(scope, receive)
        except Refusal as refusal:
            self._figures.answered(refusal.status)
            await refusal.response()(scope, receive, send)
            return
        except Exception:
            logger.exception("POST /events failed")
            self._figures.answered(500)
            await Json({"error": "internal error"}, 500)(scope, receive, send)
            return
        self._figures.answered(202)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _take(self, scope: Scope, receive: Receive) -> bytes:
        headers = dict(scope["headers"])
        with self._room.place() as place:
            body = await read_body(receive, headers, self._max_body_bytes, place)
            if len(body) > THREAD_BYTES:
                decoded = await asyncio.to_thread(decode, body, headers, self._max_events)
            else:
                decoded = decode(body, headers, self._max_events)
            del body
            return await self._store(decoded)

    async def _store(self, decoded: Decoded) -> bytes:
        accepted = duplicates = 0
        if decoded.events:
            positions = await self._publish(decoded)
            duplicates = positions.count(0)
            if -1 in positions:
                for place, position in zip(decoded.places, positions, strict=True):
                    if position == -1:
                        decoded.reject(place, "was cancelled by a middleware of the bus", "cancelled")
            accepted = len(positions) - duplicates - positions.count(-1)
        self._figures.took(accepted, duplicates)
        if decoded.rejected:
            for reason, count in decoded.reasons.items():
                self._figures.refused(reason, count)
            decoded.rejected.sort(key=_index)
            return Json.text({"accepted": accepted, "duplicates": duplicates, "rejected": decoded.rejected})
        return b'{"accepted":%d,"duplicates":%d,"rejected":[]}' % (accepted, duplicates)

    async def _publish(self, decoded: Decoded) -> list[int]:
        try:
            return await self._bus.publish_many(decoded.events)
        except Overloaded as error:
            raise Refusal(503, str(error), error.retry_after) from None
        except BusClosed:
            raise Refusal(503, "the service is shutting down; nothing was stored", retry_after=1) from None
        except StoreError as error:
            logger.error("a batch of %d events was not stored: %s", len(decoded.events), error)
            raise Refusal(503, "the event store could not commit; nothing was stored", retry_after=1) from None


def _index(row: dict[str, Any]) -> int:
    index: int = row["index"]
    return index
