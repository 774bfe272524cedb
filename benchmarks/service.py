"""A server under load: started as a process, loaded over raw sockets, its processor time read from the system."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")

_OURS = """
import sys
from agent_runtime.main import create_app
from agent_runtime.server import Server
from agent_runtime.settings import load_settings
settings = load_settings(port=int(sys.argv[1]), db_url=sys.argv[2], mode="sidecar", log_level="ERROR")
Server(create_app(settings), settings.host, settings.port).run()
"""

_NULL = """
import sys, uvicorn
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})
settings = {"log_level": "error", "access_log": False, "lifespan": "off", "loop": "uvloop", "http": "httptools"}
uvicorn.run(app, port=int(sys.argv[1]), **settings)
"""


class Process:
    """A server process on a free port: ours on a SQLite file, or a null ASGI application.

    Args:
        database: of ours; None for the null application.
        spans: a null application that takes ours' spans, so that exporting them is part of what is measured.
    """

    def __init__(self, database: Path | None, spans: Process | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        arguments = [str(self.port), f"sqlite:///{database}"]
        program = _NULL if database is None else _OURS
        environ = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
        if spans is not None:
            environ |= {
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{spans.port}",
            }
        self._process = subprocess.Popen([sys.executable, "-c", program, *arguments], env=environ)

    def __enter__(self) -> Self:
        for _ in range(200):
            try:
                self.get("/health")
                return self
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("the server did not start")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(20)

    def cpu_seconds(self) -> float:
        """Processor time of all its threads so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_mb(self) -> float:
        """Resident memory now."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def get(self, path: str) -> bytes:
        """The body of a GET."""
        with Connection(self.port) as connection:
            return connection.exchange(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())

    def load(self, bodies: Sequence[bytes], content_type: str, connections: int = 4) -> list[float]:
        """POST each body to /events, over a few connections at once; how long each took, in seconds.

        Raises:
            RuntimeError: an answer was not 202.
        """
        requests = [post(body, content_type) for body in bodies]
        taken: list[float] = []
        failures: list[BaseException] = []

        def work(share: Sequence[bytes]) -> None:
            try:
                with Connection(self.port) as connection:
                    for request in share:
                        began = time.perf_counter()
                        connection.exchange(request)
                        taken.append(time.perf_counter() - began)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(requests[n::connections],)) for n in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise RuntimeError("the load failed") from failures[0]
        return taken


def post(body: bytes, content_type: str) -> bytes:
    """A whole HTTP request."""
    head = f"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection:
    """A kept-alive connection that can do no more than send a request and read its answer."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def exchange(self, request: bytes) -> bytes:
        """Send, and read the answer's body.

        Raises:
            RuntimeError: the status is none of the 200s.
        """
        self._socket.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._more()
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(head.decode(errors="replace") + body.decode(errors="replace"))
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += self._more()
        return body

    def _more(self) -> bytes:
        piece = self._socket.recv(1 << 20)
        if not piece:
            raise OSError("the server closed the connection")
        return piece


def until(condition: Callable[[], bool], seconds: float = 120.0, every: float = 1.0) -> None:
    """Wait for ``condition``, looked at ``every`` so many seconds.

    Raises:
        TimeoutError: it did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(every)
