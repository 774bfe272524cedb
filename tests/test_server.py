"""Connections: who opens one and sends no request can't keep it."""

import socket
import time
from collections.abc import Iterator

import pytest

from agent_runtime import server
from tests.service import Service

REQUEST = b"GET /health HTTP/1.1\r\nHost: x\r\n"
STARTS = [b"", b"GET /hea", REQUEST + b"X-Long: ", REQUEST + b"\r\nGET /h"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that waits a second for the head of a request."""
    code = "import agent_runtime.server as s; s.HEAD_SECONDS = 1.0; import agent_runtime.cli as c; c.main()"
    with Service(tmp_path_factory.mktemp("server"), program=["-c", code]) as service:
        yield service


def connect(service: Service) -> socket.socket:
    """A connection."""
    return socket.create_connection(("127.0.0.1", service.port), timeout=10)


def rest(connection: socket.socket) -> bytes:
    """What it is sent until the other side closes it."""
    received = b""
    with connection:
        while chunk := connection.recv(65_536):
            received += chunk
    return received


@pytest.mark.parametrize("start", STARTS)
def test_a_head_that_never_comes(service: Service, start: bytes) -> None:
    """Nothing, half a line, half a header, half of a second request: closed after a while."""
    connection = connect(service)
    connection.sendall(start)
    began = time.monotonic()
    answered = rest(connection).count(b"HTTP/1.1 200")
    assert 0.8 < time.monotonic() - began < 5
    assert start.count(b"\r\n\r\n") == answered


def test_a_head_without_an_end(service: Service) -> None:
    """It is cut off long before it costs anything."""
    sent = 0
    with connect(service) as connection, pytest.raises(OSError):
        connection.sendall(REQUEST + b"X-Long: ")
        while sent < 200_000_000:
            sent += connection.send(b"x" * 100_000)
    assert sent < 20_000_000


def test_a_long_head_and_a_slow_body_are_served(service: Service) -> None:
    """What is within bounds is answered, also if the body takes longer than a head may, and on one connection."""
    assert server.HEAD_BYTES > 20_000
    with connect(service) as connection:
        for _ in range(2):
            head = b"POST /events HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 20_000 + b"\r\nContent-Length: 2\r\n\r\n"
            connection.sendall(head[:10_000])
            connection.sendall(head[10_000:])
            time.sleep(1.3)
            connection.sendall(b"[]")
            answer = b""
            while not answer.endswith(b"}"):
                chunk = connection.recv(65_536)
                assert chunk, "it was closed"
                answer += chunk
            assert answer.startswith(b"HTTP/1.1 202")
