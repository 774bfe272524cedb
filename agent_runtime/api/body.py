"""Reading a request's body within its limit, counted before and after decompression."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from starlette.types import Receive

from agent_runtime.api.answers import Refusal

# A sender that is still writing would miss an early answer: what is too large is read to its end, up to here.
DISCARD_BYTES = 64 * 1024 * 1024
# Who sends more slowly than this is cut off: a body that never ends would hold its room for ever.
BODY_SECONDS = 60.0
_GZIP = 16 + zlib.MAX_WBITS


class Room:
    """What the bodies of all requests that are being served may have together.

    Args:
        size: in bytes.
    """

    def __init__(self, size: int) -> None:
        self.free = size

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Room for one body; given back at the end."""
        place = Place(self)
        try:
            yield place
        finally:
            self.free += place.taken


class Place:
    """The room that one body has taken so far."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.taken = 0

    def reach(self, size: int) -> bool:
        """Make room for ``size`` bytes in all; False if there is none."""
        more = size - self.taken
        if more > self._room.free:
            return False
        self._room.free -= more
        self.taken = size
        return True


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int, place: Place) -> bytes:
    """The whole body, decompressed.

    Args:
        headers: of the request, names in lower case; ``content-encoding`` may be gzip.
        limit: bytes that it may have, compressed and decompressed. No more than that is ever held.
        place: where it takes its room.

    Raises:
        Refusal: 413 too large, 415 unknown encoding, 400 broken gzip or a body that ends too early, 408 too slow, 503
        no room.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read(receive, headers, limit, place)
    except TimeoutError:
        raise Refusal(408, f"the body was not sent within {BODY_SECONDS:.0f} seconds") from None


async def _read(receive: Receive, headers: Mapping[bytes, bytes], limit: int, place: Place) -> bytes:
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"identity", b"", b"gzip", b"x-gzip"):
        raise Refusal(415, "content-encoding must be gzip, or none")
    too_large = Refusal(413, f"the body has more than {limit} bytes")
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit:
        if int(declared) <= DISCARD_BYTES:
            await _discard(receive)
        raise too_large
    message = await receive()
    body = message.get("body", b"")
    if not message.get("more_body", False) and not encoding.endswith(b"gzip"):
        if message["type"] == "http.disconnect":
            raise _GONE
        if len(body) > limit:
            raise too_large
        if not place.reach(len(body)):
            raise _NO_ROOM
        return bytes(body)
    sink = _Gunzip(limit) if encoding.endswith(b"gzip") else _Plain(limit)
    received = 0
    while True:
        if message["type"] == "http.disconnect":
            raise _GONE
        received += len(body)
        if received > limit or not sink.take(body):
            if message.get("more_body", False):
                await _discard(receive)
            raise too_large
        if not place.reach(sink.size):
            sink.chunks.clear()
            if message.get("more_body", False):
                await _discard(receive)
            raise _NO_ROOM
        if not message.get("more_body", False):
            return sink.whole()
        message = await receive()
        body = message.get("body", b"")


_GONE = Refusal(400, "the body ended too early")
_NO_ROOM = Refusal(503, "too much is being sent at once; nothing was stored", retry_after=1)


async def _discard(receive: Receive) -> None:
    total = 0
    while total <= DISCARD_BYTES:
        message = await receive()
        total += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return


class _Plain:
    """Collects the body as it is; ``take`` says whether it still fits."""

    def __init__(self, limit: int) -> None:
        self.size = 0
        self.chunks: list[bytes] = []

    def take(self, chunk: bytes) -> bool:
        self.size += len(chunk)
        self.chunks.append(chunk)
        return True

    def whole(self) -> bytes:
        return b"".join(self.chunks)


class _Gunzip:
    """Decompresses as the body comes, never further than the limit. A file of several gzip members is one body."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.size = 0
        self.chunks: list[bytes] = []
        self._member = zlib.decompressobj(_GZIP)
        self._began = False

    def take(self, chunk: bytes) -> bool:
        while chunk:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP)
            try:
                plain = self._member.decompress(chunk, self._limit - self.size + 1)
            except zlib.error:
                raise Refusal(400, "the body is not valid gzip") from None
            self._began = True
            self.size += len(plain)
            self.chunks.append(plain)
            if self.size > self._limit:
                return False
            chunk = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        return True

    def whole(self) -> bytes:
        if self._began and not self._member.eof:
            raise Refusal(400, "the gzip body ends too early")
        return b"".join(self.chunks)
