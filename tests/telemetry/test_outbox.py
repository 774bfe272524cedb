import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.llm_events import LLMRequestFailedEvent, LLMRequestStartedEvent
from agent_runtime.events.parsing import parse_event
from agent_runtime.events.store.base import EventStore
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.events.store.sqlite import SqliteStore
from telemetry import Telemetry, TelemetrySettings, attach
from telemetry.identity import root_span_id
from telemetry.otlp_result import Outcome, Result
from telemetry.outbox import Outbox
from telemetry.span import Span
from telemetry.span_fold import SpanFold
from telemetry.turns import NS, Deadlines
from tests.otlp_fixture import OtlpReceiver
from tests.telemetry.folds import REPOSITORY, Script, by_id, copies, folded, memory, plain_turn, real_lines

SETTINGS = TelemetrySettings(settle_seconds=0.2)
SPANS_OF_A_TURN = 5


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[OtlpReceiver]:
    """A backend of its own process."""
    with OtlpReceiver(tmp_path) as receiver:
        yield receiver


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An event store in a file."""
    store = SqliteStore(tmp_path / "events.db", synchronous="NORMAL")
    yield store
    store.close()


@asynccontextmanager
async def running(store: EventStore, environ: Mapping[str, str]) -> AsyncIterator[tuple[EventBus, Telemetry]]:
    """A bus over ``store`` with telemetry attached."""
    bus = EventBus(store)
    async with attach(bus, settings=SETTINGS, environ=environ) as telemetry:
        yield bus, telemetry
    await bus.close()


def turns(count: int, first: int = 0) -> list[BaseEvent]:
    """The events of so many turns, each with ``SPANS_OF_A_TURN`` spans."""
    return [event for number in range(first, first + count) for event in plain_turn(f"{number + 1:032x}").events]


async def until(condition: Callable[[], Any]) -> None:
    """Wait for the condition; a test that waits in vain fails."""
    async with asyncio.timeout(40):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


def figure(telemetry: Telemetry, name: str) -> float:
    """The sum of one of the pipeline's own counters or gauges."""
    family = next(family for family in telemetry.families() if family.metric.name == name)
    return sum(one.value for one in family.series)  # type: ignore[union-attr]


def records(spans: list[Span]) -> dict[str, tuple[Any, ...]]:
    """Spans as the receiver writes them down, by id."""
    return {
        span.span_id.hex(): (span.name, span.parent_span_id.hex(), span.start_ns, span.end_ns, dict(span.attributes))
        for span in spans
    }


def received(receiver: OtlpReceiver) -> dict[str, tuple[Any, ...]]:
    """What arrived, by id; each once."""
    spans = receiver.spans()
    found = {
        span["span_id"]: (span["name"], span["parent_span_id"], span["start_ns"], span["end_ns"], span["attributes"])
        for span in spans
    }
    assert len(spans) == len(found)
    return found


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_everything_arrives(protocol: str, receiver: OtlpReceiver, store: SqliteStore) -> None:
    """The recorded sessions arrive over HTTP and gRPC as the fold makes them, each span once."""
    events = [parse_event(line) for line in real_lines()]
    expected = records(folded(memory(events))[1])
    async with running(store, receiver.environ(protocol)) as (bus, telemetry):
        for first in range(0, len(events), 500):
            await bus.publish_many(events[first : first + 500])
        await until(lambda: figure(telemetry, "agent_runtime_spans_exported_total") >= len(expected))
    assert expected == received(receiver)
    assert {"agent-runtime"} == {span["resource"]["service.name"] for span in receiver.spans()}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_receiver_goes_and_comes(protocol: str, receiver: OtlpReceiver, store: SqliteStore) -> None:
    """Stopped, restarted, hanging, refusing seven of ten requests: nothing is lost, nothing comes twice."""
    expected = 0
    async with running(store, receiver.environ(protocol, TIMEOUT=500)) as (bus, telemetry):

        async def more() -> None:
            nonlocal expected
            await bus.publish_many(turns(20, first=expected))
            expected += 20

        receiver.stop()
        await more()
        await until(lambda: figure(telemetry, "agent_runtime_span_export_failures_total"))
        await asyncio.to_thread(receiver.start)
        await until(lambda: len(receiver.spans()) == expected * SPANS_OF_A_TURN)
        receiver.control("hang")
        failures = figure(telemetry, "agent_runtime_span_export_failures_total")
        await more()
        await until(lambda: figure(telemetry, "agent_runtime_span_export_failures_total") > failures)
        receiver.control("refuse", share=0.7)
        await more()
        await until(lambda: len(receiver.spans()) == expected * SPANS_OF_A_TURN)
        assert 0 == figure(telemetry, "agent_runtime_dead_letters")
    assert expected * SPANS_OF_A_TURN == len(received(receiver))


async def test_a_refused_span_is_set_apart(receiver: OtlpReceiver, store: SqliteStore) -> None:
    """A span that the backend will not have becomes a dead letter with its event; its neighbours arrive."""
    events = turns(30)
    bad = next(event for event in events[100:] if event.event_type == "llm_request_started")
    receiver.control("poison", pattern=bad.event_id)
    async with running(store, receiver.environ("http/protobuf")) as (bus, telemetry):
        await bus.publish_many(events)
        await until(lambda: figure(telemetry, "agent_runtime_spans_exported_total") == 30 * SPANS_OF_A_TURN - 1)
        await until(store.dead_letters)
        assert 1 == figure(telemetry, "agent_runtime_spans_refused_total")
    assert [("spans", bad.event_id)] == [(letter.queue, letter.event_id) for letter in store.dead_letters()]
    assert "chat gpt-4o" == json.loads(store.dead_letters()[0].payload)["name"]
    assert len(received(receiver)) == 30 * SPANS_OF_A_TURN - 1


async def test_partial_success(receiver: OtlpReceiver, store: SqliteStore) -> None:
    """Spans that a backend drops from a request that it takes are counted, and a dead letter names the request."""
    receiver.control("partial", pattern="execute_tool")
    async with running(store, receiver.environ("http/protobuf")) as (bus, telemetry):
        await bus.publish_many(turns(10))
        await until(lambda: figure(telemetry, "agent_runtime_spans_refused_total") == 10)
        await until(store.dead_letters)
    assert 40 == len(received(receiver))
    assert "rejected as told" in store.dead_letters()[0].error


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_large_spans_arrive_whole(protocol: str, receiver: OtlpReceiver, store: SqliteStore) -> None:
    """512 spans with 8 KiB of text each: more than a gRPC server takes at once."""
    turn = Script("a" * 32)
    for number in range(512):
        call = turn.tell(LLMRequestStartedEvent, model="m", request_id=str(number))
        turn.tell(
            LLMRequestFailedEvent,
            call,
            model="m",
            request_id=str(number),
            error=f"{number} ".ljust(8192, "x"),
            error_type="E",
            duration_ms=1.0,
        )
    settings = TelemetrySettings(settle_seconds=0.2, late_seconds=0.2)
    bus = EventBus(store)
    async with attach(bus, settings=settings, environ=receiver.environ(protocol)):
        await bus.publish_many(turn.events)
        await until(lambda: len(receiver.spans()) >= 513)
    await bus.close()
    messages = [span["status"]["message"] for span in receiver.spans() if span["name"] == "chat m"]
    assert {f"{number} ".ljust(8192, "x") for number in range(512)} == set(messages)


async def test_the_store_is_the_queue(receiver: OtlpReceiver, store: SqliteStore) -> None:
    """While the backend is away what waits in memory does not grow with what is published; then all of it arrives."""
    receiver.stop()
    async with running(store, receiver.environ("http/protobuf")) as (bus, telemetry):
        await bus.publish_many(turns(50))
        await until(lambda: figure(telemetry, "agent_runtime_spans_pending"))
        pending = figure(telemetry, "agent_runtime_spans_pending")
        await bus.publish_many(turns(500, first=50))
        await until(lambda: telemetry.lags()["metrics"] == 0)
        assert (pending, 500 * 10) == (figure(telemetry, "agent_runtime_spans_pending"), telemetry.lags()["spans"])
        await asyncio.to_thread(receiver.start)
        await until(lambda: len(receiver.spans()) == 550 * SPANS_OF_A_TURN)
    assert 550 * SPANS_OF_A_TURN == len(received(receiver))


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_stops_while_the_backend_hangs(protocol: str, receiver: OtlpReceiver, store: SqliteStore) -> None:
    """It stops long before the request would time out; what was not taken is exported after the next start."""
    receiver.control("hang")
    async with running(store, receiver.environ(protocol, TIMEOUT=60_000)) as (bus, telemetry):
        await bus.publish_many(turns(10))
        await until(lambda: receiver.seen()["requests"])
        async with asyncio.timeout(10):
            await telemetry.stop(1.0)
    receiver.control("ok")
    async with running(store, receiver.environ(protocol)):
        await until(lambda: len(receiver.spans()) >= 10 * SPANS_OF_A_TURN)
    assert 10 * SPANS_OF_A_TURN == len(received(receiver))


async def test_nothing_comes_twice_after_a_stop(receiver: OtlpReceiver, store: SqliteStore) -> None:
    """Stopped and started again at any moment, with more than one batch under way: each span arrives once."""
    for part in range(6):
        async with running(store, receiver.environ("http/protobuf")) as (bus, _):
            await bus.publish_many(turns(300, first=300 * part))
            await asyncio.sleep(0.09 * part)
    async with running(store, receiver.environ("http/protobuf")):
        await until(lambda: len(receiver.spans()) >= 1800 * SPANS_OF_A_TURN)
    assert 1800 * SPANS_OF_A_TURN == len(received(receiver))


async def test_a_store_in_memory_is_emptied_at_the_stop(receiver: OtlpReceiver) -> None:
    """Events in memory do not outlive the process, so a stop gives out every turn at once, open ones as incomplete."""
    bus = EventBus(MemoryStore())
    async with attach(bus, environ=receiver.environ("http/protobuf")):
        await bus.publish_many([*turns(2), *plain_turn("f" * 32, decided=False).events])
    spans = receiver.spans()
    assert 2 * SPANS_OF_A_TURN + 4 == len(spans)
    open_root = next(span for span in spans if span["span_id"] == root_span_id("f" * 32).hex())
    assert open_root["attributes"]["agent_runtime.incomplete"] is True


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_kill_9(share: float, receiver: OtlpReceiver, tmp_path: Path) -> None:
    """Killed while it exports and started again: nothing is lost, and a span that came twice is byte-identical."""
    lines = real_lines()
    expected = records(folded(memory([parse_event(line) for line in lines]))[1])
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join(lines))
    command = [sys.executable, "-m", "tests.telemetry.exporting_child", str(tmp_path / "events.db"), str(file)]
    environ = {**os.environ, **receiver.environ("http/protobuf")}
    for wanted in (share * len(expected), len(expected)):
        child = subprocess.Popen(command, cwd=REPOSITORY, env=environ, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            while len({span["span_id"] for span in receiver.spans()}) < wanted:
                assert child.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
    hashes: dict[str, set[str]] = {}
    for span in receiver.spans():
        hashes.setdefault(span["span_id"], set()).add(span["sha256"])
    assert {1: len(expected)} == Counter(len(found) for found in hashes.values())
    assert expected.keys() == hashes.keys()


async def test_continues_where_another_definition_stopped(receiver: OtlpReceiver, store: SqliteStore) -> None:
    """Other deadlines, or a state that can't be read, stop nothing: what comes from then on is exported."""
    async with running(store, receiver.environ("http/protobuf")) as (bus, _):
        await bus.publish_many(turns(5))
        await until(lambda: len(receiver.spans()) == 5 * SPANS_OF_A_TURN)
    position = store.last_position()
    store.save_checkpoint("spans", position, b"spans-0\nnonsense")
    async with running(store, receiver.environ("http/protobuf")) as (bus, _):
        await bus.publish_many(turns(5, first=5))
        await until(lambda: len(receiver.spans()) >= 10 * SPANS_OF_A_TURN)
    assert 10 * SPANS_OF_A_TURN == len(received(receiver))


def test_spans_are_equal_by_value() -> None:
    """The same events give equal spans: what the other tests compare by."""
    events = turns(3)
    assert by_id(folded(memory(events))[1]) == by_id(folded(memory(copies(events)))[1])


class Refusing:
    """A transport that is refused so many times, once with the backend's own wish."""

    def __init__(self, times: int) -> None:
        self._results = [Result(Outcome.RETRY, "no") for _ in range(times)]
        self._results[-1] = Result(Outcome.RETRY, "no", retry_after=60.0)
        self._results[-2] = Result(Outcome.RETRY, "no", retry_after=0.0)

    async def send(self, body: bytes) -> Result:
        """The next answer."""
        return self._results.pop(0) if self._results else Result(Outcome.ACCEPTED)

    async def close(self) -> None:
        """There is nothing to close."""


class Hurried(Outbox):
    """Writes down how long it would wait, and does not."""

    pauses: list[float]

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def test_pauses_lie_between_half_a_second_and_five() -> None:
    """They double while the backend refuses; what it wishes itself counts within the same bounds."""
    store = memory(turns(1))
    bus = EventBus(store)
    deadlines = Deadlines(grace=0, late=0, turn=60 * NS, approval=60 * NS)
    outbox = Hurried(bus, SpanFold(store, deadlines), Refusing(7), {"service.name": "test"})
    outbox.pauses = []
    await outbox.start()
    await until(lambda: outbox.figures.exported == SPANS_OF_A_TURN)
    await outbox.stop(1.0)
    await bus.close()
    assert [0.5, 1.0, 2.0, 4.0, 5.0, 0.5, 5.0] == outbox.pauses
