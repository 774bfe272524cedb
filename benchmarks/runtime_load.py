"""Many users at once, of whom some leave in the middle, against the service in runtime mode; and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.store import open_store
from benchmarks.service import Connection, Process, until

HERE = Path(__file__).parents[1]
# None of them needs an approval; together they route, switch, call tools, answer at length, and fail.
MESSAGES = (
    "What does the code in main.py do?",
    "Explain the modules of this project",
    "Why would a retry need jitter?",
    "How do I choose a timeout for a call to another service, and who decides when to give up?",
    "Hello there",
    "Simulate an outage",
)
MESSAGES_A_SESSION = 3
LEAVING_SHARE = 0.3
LONGEST_BYTES = 4_000
ENDS = {
    "agent_processing_started": ("agent_processing_completed",),
    "llm_request_started": ("llm_request_completed", "llm_request_failed"),
    "tool_execution_started": ("tool_execution_completed", "tool_execution_failed"),
}


class RuntimeProcess:
    """The service with its probe on a free port, its spans taken by a null application.

    Args:
        folder: of its database, its workspace and its log ``runtime.log``.
        delay_seconds: of the scripted model before each word or so.
    """

    def __init__(self, folder: Path, delay_seconds: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.folder = folder
        self._sink = Process(None)
        self._delay = delay_seconds

    def __enter__(self) -> Self:
        self._sink.__enter__()
        program = "benchmarks.runtime_probe"
        arguments = [str(self.port), str(self.folder), str(self._delay), str(self._sink.port)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AGENT_RUNTIME__", "OTEL_"))}
        spans = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._sink.port}",
            "AGENT_RUNTIME__SETTLE_SECONDS": "1",
        }
        with open(self.folder / "runtime.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", program, *arguments], cwd=HERE, env={**kept, **spans}, stdout=log, stderr=log
            )
        until(self._answers, 60.0, every=0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        finally:
            self._process.kill()
            self._sink.__exit__(kind, error, trace)

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"the service did not start:\n{self.log}")
        with contextlib.suppress(OSError):
            return bool(self.probe())
        return False

    @property
    def log(self) -> str:
        """What it has written so far."""
        return (self.folder / "runtime.log").read_text(errors="replace")

    def probe(self) -> dict[str, Any]:
        """See ``runtime_probe``."""
        with Connection(self.port) as connection:
            answer: dict[str, Any] = json.loads(connection.exchange(b"GET /probe HTTP/1.1\r\nHost: x\r\n\r\n"))
        return answer

    def resident_mb(self) -> float:
        """Resident memory now."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def leaked(self, before: dict[str, int], seconds: float = 20.0) -> dict[str, int]:
        """Tasks, by name, that run beyond those of ``before``, once all others have had that long to end."""
        give_up = time.monotonic() + seconds
        while (more := Counter(self.probe()["tasks"]) - Counter(before)) and time.monotonic() < give_up:
            time.sleep(0.5)
        return dict(more)

    def events(self) -> list[BaseEvent]:
        """All events, in store order; after its end."""
        store = open_store(f"sqlite:///{self.folder}/events.db", "FULL")
        try:
            events: list[BaseEvent] = []
            while page := store.read(events[-1].position if events else 0, 10_000):
                events += page
            return events
        finally:
            store.close()


@dataclass
class Load:
    """Users, each in a session of their own, for some seconds.

    Attributes:
        seen: how many streams ended how: ``done``, ``left`` (by the user), ``error`` (told by the service, then done),
            ``cut`` (without an end), ``409`` (the turn before was still being ended; tried again), other statuses.
        resident_mb: memory of the service every second.
    """

    server: RuntimeProcess
    users: int
    seconds: float
    seen: Counter[str] = field(default_factory=Counter)
    resident_mb: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Play it."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._until = time.monotonic() + self.seconds
        users = [asyncio.create_task(self._user(random.Random(number))) for number in range(self.users)]
        while time.monotonic() < self._until:
            self.resident_mb.append(self.server.resident_mb())
            await asyncio.sleep(1.0)
        await asyncio.gather(*users)

    async def _user(self, chance: random.Random) -> None:
        while time.monotonic() < self._until:
            session_id = f"load-{uuid.UUID(int=chance.getrandbits(128))}"
            for message in chance.sample(MESSAGES, MESSAGES_A_SESSION):
                patience = chance.randrange(LONGEST_BYTES) if chance.random() < LEAVING_SHARE else None
                body = {"session_id": session_id, "message": {"type": "user_message", "content": message}}
                while (how := await self._stream(json.dumps(body).encode(), patience)) == "409":
                    self.seen[how] += 1
                    await asyncio.sleep(0.05)
                self.seen[how] += 1
            await self._exchange(f"DELETE /sessions/{session_id}", b"", None)

    async def _stream(self, body: bytes, patience: int | None) -> str:
        answer = await self._exchange("POST /agent/message/stream", body, patience)
        status = answer[9:12].decode()
        if status != "200":
            return status or "left"
        if b"event: done" not in answer:
            return "left" if patience is not None else "cut"
        return "error" if b"event: error" in answer else "done"

    async def _exchange(self, request: str, body: bytes, patience: int | None) -> bytes:
        """The raw answer up to its end, or until more than ``patience`` bytes have come."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        head = f"{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = b""
        try:
            while patience is None or len(answer) <= patience:
                piece = await reader.read(1 << 16)
                if not piece:
                    break
                answer += piece
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return answer


def without_end(events: list[BaseEvent]) -> list[BaseEvent]:
    """Beginnings of runs, model calls and tool calls that no event ends."""
    ended = {(event.causation_id, str(event.event_type)) for event in events}
    return [
        event
        for event in events
        if str(event.event_type) in ENDS
        and not any((event.event_id, end) in ended for end in ENDS[str(event.event_type)])
    ]


def own_times(events: list[BaseEvent], delays: dict[str, list[float]]) -> Iterator[float]:
    """The runtime's own seconds before each event.

    That is the time since the event before it in the same turn; before the end of a model call, without what the
    scripted model was told to wait in this call. What its waits took beyond that, because the loop was busy, is the
    runtime's own. A call that was cut off has waited nobody knows how long, and is left out.
    """
    turns: defaultdict[str, list[BaseEvent]] = defaultdict(list)
    for event in events:
        if event.correlation_id is not None:
            turns[event.correlation_id].append(event)
    for turn, members in turns.items():
        waits = iter(delays.get(turn, ()))
        wait = 0.0
        for before, event in itertools.pairwise(members):
            kind = str(event.event_type)
            if kind == "llm_request_started":
                wait = next(waits, 0.0)
            if kind == "llm_request_failed" and event.data["error_type"] == "cancelled":
                continue
            took = (event.time_us - before.time_us) / 1e6
            yield max(0.0, took - wait if kind.startswith("llm_request_") and kind != "llm_request_started" else took)
