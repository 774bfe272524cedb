"""uvicorn, with three changes: streams learn of the end before they are waited for, a signal ends it cleanly, and a
connection whose request's head does not come is closed."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agent_runtime.main import GRACE_SECONDS, Service

SIGNALS = (signal.SIGINT, signal.SIGTERM)


# A request line and its headers must come within this time, and may have about this many bytes.
HEAD_SECONDS = 20.0
HEAD_BYTES = 64 * 1024
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Protocol(HttpToolsProtocol):
    """One connection. Whoever opens it and sends nothing, or a head without an end, can't keep it."""

    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See uvicorn."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See uvicorn."""
        self._head_has_come()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See uvicorn."""
        if self._timer is not None and self._head_bytes > HEAD_BYTES:
            self.transport.write(_TOO_LONG)
            self.transport.close()
            return
        super().data_received(data)
        if self._timer is not None:
            self._head_bytes += len(data)

    def on_message_begin(self) -> None:
        """See uvicorn."""
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """See uvicorn."""
        self._head_has_come()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._head_has_come()
        self._head_bytes = 0
        self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _head_has_come(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # The next request of a connection that is still being answered.
            self._await_head()
        else:
            self._timer = None
            self.transport.close()


class Server(uvicorn.Server):
    """Serves one application.

    Args:
        app: as ``create_app`` made it.
        host, port: where to listen.
    """

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._service: Service = app.state.service
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                loop="uvloop",
                http=Protocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then stop as uvicorn does."""
        self._service.begin_to_stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the server. uvicorn would raise them again afterwards, and the process die of them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
