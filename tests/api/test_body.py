"""Reading bodies within their limit."""

import asyncio
import gzip
from collections.abc import Iterable

import pytest
from starlette.types import Message

from agent_runtime.api import body as body_module
from agent_runtime.api.answers import Refusal
from agent_runtime.api.body import Place, Room, read_body

LIMIT = 1_000
PLACE = Place(Room(10**9))


class Sent:
    """A client that sends these chunks; `asked` counts how often it was asked for one."""

    def __init__(self, chunks: Iterable[bytes], hangs_up: bool = False) -> None:
        self._chunks = list(chunks)
        self._hangs_up = hangs_up
        self.asked = 0

    @property
    def is_at_its_end(self) -> bool:
        """Whether all was read."""
        return not self._chunks

    async def __call__(self) -> Message:
        """The ASGI receive channel."""
        self.asked += 1
        if not self._chunks:
            return {"type": "http.disconnect"}
        chunk = self._chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks) or self._hangs_up}


def pieces(body: bytes, size: int) -> list[bytes]:
    """The body in pieces of that many bytes."""
    return [body[start : start + size] for start in range(0, len(body), size)] or [b""]


@pytest.mark.parametrize("size", [1, 7, 1_000])
@pytest.mark.parametrize("body", [b"", b"x", b"x" * LIMIT])
async def test_plain(body: bytes, size: int) -> None:
    """A body that fits is read whole, in however many pieces it comes."""
    assert body == await read_body(Sent(pieces(body, size)), {}, LIMIT, PLACE)


@pytest.mark.parametrize("size", [1, 7, 1_000])
async def test_gzip(size: int) -> None:
    """A gzip body is decompressed; several members are one body."""
    body = gzip.compress(b"a" * 400) + gzip.compress(b"b" * 600)
    expected = b"a" * 400 + b"b" * 600
    assert expected == await read_body(Sent(pieces(body, size)), {b"content-encoding": b"gzip"}, LIMIT, PLACE)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [(b"x" * (LIMIT + 1), b"identity"), (gzip.compress(b"x" * (LIMIT + 1)), b"gzip")],
)
@pytest.mark.parametrize("size", [100, 10_000])
async def test_too_large(body: bytes, encoding: bytes, size: int) -> None:
    """Counted before and after decompression; what the client is still sending is read, so that it sees the answer."""
    sent = Sent(pieces(body, size))
    with pytest.raises(Refusal) as raised:
        await read_body(sent, {b"content-encoding": encoding}, LIMIT, PLACE)
    assert (413, True) == (raised.value.status, sent.is_at_its_end)


async def test_a_declared_length_is_believed() -> None:
    """A body that says it is far too large is not read at all."""
    sent = Sent([b"x"])
    with pytest.raises(Refusal) as raised:
        await read_body(sent, {b"content-length": b"99999999999"}, LIMIT, PLACE)
    assert (413, 0) == (raised.value.status, sent.asked)


async def test_a_bomb_is_not_inflated() -> None:
    """Of 10 MB in 10 KB no more than the limit is ever held."""
    bomb = gzip.compress(b"\0" * 10_000_000)
    with pytest.raises(Refusal) as raised:
        await read_body(Sent([bomb]), {b"content-encoding": b"gzip"}, LIMIT, PLACE)
    assert 413 == raised.value.status


@pytest.mark.parametrize("encoding", [b"identity", b"gzip"])
async def test_hanging_up(encoding: bytes) -> None:
    """A client that goes away in the middle has sent nothing."""
    body = gzip.compress(b"x" * 500)
    with pytest.raises(Refusal) as raised:
        await read_body(Sent([body[:20]], hangs_up=True), {b"content-encoding": encoding}, LIMIT, PLACE)
    assert 400 == raised.value.status


@pytest.mark.parametrize("encoding", [b"br", b"deflate", b"gzip, gzip"])
async def test_unknown_encodings(encoding: bytes) -> None:
    """Only gzip is read."""
    with pytest.raises(Refusal) as raised:
        await read_body(Sent([b"x"]), {b"content-encoding": encoding}, LIMIT, PLACE)
    assert 415 == raised.value.status


@pytest.mark.parametrize("encoding", [b"identity", b"gzip"])
@pytest.mark.parametrize("size", [100, 1_000])
async def test_all_bodies_together_are_bounded(encoding: bytes, size: int) -> None:
    """What finds no room is refused, read to its end all the same, and can be sent again when there is room."""
    room = Room(1_500)
    body = bytes(range(250)) * 4
    sent = gzip.compress(body) if encoding == b"gzip" else body
    headers = {b"content-encoding": encoding}
    with room.place() as first:
        assert body == await read_body(Sent(pieces(sent, size)), headers, LIMIT, first)
        late = Sent(pieces(sent, size))
        with room.place() as second, pytest.raises(Refusal) as refused:
            await read_body(late, headers, LIMIT, second)
        assert (503, 1) == (refused.value.status, refused.value.retry_after)
        assert late.is_at_its_end
    with room.place() as second:
        assert body == await read_body(Sent(pieces(sent, size)), headers, LIMIT, second)
    assert 1_500 == room.free


async def test_a_body_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for a while, and gives its room back."""
    monkeypatch.setattr(body_module, "BODY_SECONDS", 0.05)

    async def drip() -> Message:
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": b"x", "more_body": True}

    room = Room(1_500)
    with room.place() as place, pytest.raises(Refusal, match="not sent within") as refused:
        await read_body(drip, {}, LIMIT, place)
    assert 408 == refused.value.status
    assert 1_500 == room.free
