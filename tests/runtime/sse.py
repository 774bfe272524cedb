"""Talking to a running service as its clients do: messages in, Server-Sent Events out."""

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx

from tests.service import Service

Event = tuple[str, dict[str, Any]]


def body(session_id: str, **message: Any) -> dict[str, Any]:
    """The JSON of a message; `type` is user_message by default."""
    return {"session_id": session_id, "message": {"type": "user_message", **message}}


def read(lines: Iterator[str]) -> Iterator[Event]:
    """Name and data of each event of a stream."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def send(service: Service, session_id: str, headers: dict[str, str] | None = None, **message: Any) -> list[Event]:
    """Send a message and read its stream to the end."""
    request = service.client.stream(
        "POST", "/agent/message/stream", json=body(session_id, **message), headers=headers, timeout=60
    )
    with request as response:
        assert 200 == response.status_code, response.read()
        assert "text/event-stream; charset=utf-8" == response.headers["content-type"]
        return list(read(response.iter_lines()))


def refusal(service: Service, session_id: str, **message: Any) -> tuple[int, str]:
    """Status and error of a message that is not taken."""
    response = service.client.post("/agent/message/stream", json=body(session_id, **message))
    return response.status_code, response.json()["error"]


def text(events: list[Event]) -> str:
    """What was streamed, token by token."""
    return "".join(data.get("token", "") for _, data in events)


def errors(events: list[Event]) -> list[str]:
    """The classes of the errors in a stream."""
    return [data["metadata"]["error_type"] for name, data in events if name == "error"]


class Listener:
    """A stream that is read on a thread while the test does something else.

    Attributes:
        events: what has come so far. ended: whether the stream has ended by itself, with `done`.
    """

    def __init__(self, service: Service, session_id: str, **message: Any) -> None:
        self.events: list[Event] = []
        self._client = httpx.Client(base_url=service.url, trust_env=False, timeout=60)
        self._request = body(session_id, **message)
        self._response: httpx.Response | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            with self._client.stream("POST", "/agent/message/stream", json=self._request) as response:
                self._response = response
                for event in read(response.iter_lines()):
                    self.events.append(event)
        except httpx.HTTPError:
            pass
        finally:
            self._client.close()

    @property
    def ended(self) -> bool:
        """Whether the last event of the stream has come."""
        return bool(self.events) and self.events[-1] == ("done", {"status": "completed"})

    def wait(self) -> list[Event]:
        """All events, when the stream has ended or broken."""
        self._thread.join(30)
        assert not self._thread.is_alive(), "the stream has no end"
        return self.events

    def leave(self) -> None:
        """Break the connection, as a client does that has seen enough; the stream must have begun."""
        assert self._response is not None
        self._response.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self.wait()
