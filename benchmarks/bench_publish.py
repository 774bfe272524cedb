"""Publishing to five async no-op handlers: ours beside a bare loop, bubus, pyee and blinker doing the same work.

An event counts when all five have run.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import warnings
from collections.abc import Awaitable, Callable
from statistics import median
from time import perf_counter
from typing import Any

from agent_runtime.events.agent_events import AgentSwitchedEvent
from agent_runtime.events.event_bus import EventBus

BAR = 3.0
NOTE = (
    "Of the {ratio:.1f}, measured by leaving each out: 1 is the five calls; 0.9 reading the clock after each of them "
    "(a read costs half a no-op handler); 0.4 their results and counts; 0.4 the context that makes the event the cause "
    "of what handlers publish; 0.8 the store (position, recording time, duplicate, lock); 0.4 admission (closed? an "
    "event? its ids); 0.3 looking for middleware, captures, followers, room and the log level; the rest are the calls "
    "between these parts. Without clock, counts and context it would stand at 4."
)

Contestant = Callable[[], Awaitable[None]]
Prepare = Callable[[int], Contestant]


def _noop(number: int) -> Callable[[Any], Awaitable[None]]:
    async def noop(event: Any) -> None: ...

    noop.__name__ = noop.__qualname__ = f"noop_{number}"  # bubus tells handlers apart by name
    return noop


NOOPS = [_noop(number) for number in range(5)]


def rows() -> list[dict[str, Any]]:
    """One row per yardstick and way of publishing; times are µs an event, medians of rounds in which all take turns."""
    return asyncio.run(_rows())


async def _rows() -> list[dict[str, Any]]:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    return [
        await _row(("waited for", _waited), ("bare loop", _bare), 500, 500, rounds=60, bar=BAR),
        await _row(("in a burst, drained", _default), ("bare loop", _bare), 500, 500, rounds=60, bar=BAR),
        await _row(("waited for", _waited), ("blinker send_async", _blinker), 500, 500, rounds=30),
        await _row(("waited for", _waited), ("pyee AsyncIOEventEmitter", _pyee), 500, 100, rounds=15),
        await _row(("waited for", _waited), ("bubus", _bubus), 500, 10, rounds=9),
    ]


async def _row(
    ours: tuple[str, Prepare],
    yardstick: tuple[str, Prepare],
    count: int,
    yardstick_count: int,
    *,
    rounds: int,
    bar: float | None = None,
) -> dict[str, Any]:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for (_, prepare), events, into in zip((ours, yardstick), (count, yardstick_count), times, strict=True):
            run = prepare(events)
            gc.collect()
            began = perf_counter()
            await run()
            into.append((perf_counter() - began) / events * 1e6)
    ours_us, yardstick_us = map(median, times)
    row = {
        "work": f"publish, 5 async no-op handlers, memory store, {ours[0]}",
        "yardstick": yardstick[0],
        "ours_us": ours_us,
        "yardstick_us": yardstick_us,
        "ratio": ours_us / yardstick_us,
        "bar": bar,
    }
    if bar is not None and ours_us > bar * yardstick_us:
        row["note"] = NOTE.format(ratio=ours_us / yardstick_us)
    return row


def _events(count: int) -> list[AgentSwitchedEvent]:
    return [AgentSwitchedEvent(session_id="s", from_agent="a", to_agent="b") for _ in range(count)]


def _bus() -> EventBus:
    bus = EventBus()
    for handler in NOOPS:
        bus.subscribe(event_type=AgentSwitchedEvent, handler=handler)
    return bus


def _bare(count: int) -> Contestant:
    events = _events(count)

    async def run() -> None:
        for event in events:
            for handler in NOOPS:
                await handler(event)

    return run


def _waited(count: int) -> Contestant:
    bus, events = _bus(), _events(count)

    async def run() -> None:
        for event in events:
            await bus.publish(event, wait_for_handlers=True)

    return run


def _default(count: int) -> Contestant:
    bus, events = _bus(), _events(count)

    async def run() -> None:
        for event in events:
            await bus.publish(event)
        if not await bus.drain() or bus.get_stats().successful_handlers != len(NOOPS) * count:
            raise AssertionError("not every handler has run")

    return run


def _blinker(count: int) -> Contestant:
    from blinker import Signal

    signal, events = Signal(), _events(count)
    for handler in NOOPS:
        signal.connect(handler, weak=False)

    async def run() -> None:
        for event in events:
            await signal.send_async(event)

    return run


def _pyee(count: int) -> Contestant:
    from pyee.asyncio import AsyncIOEventEmitter

    emitter, events = AsyncIOEventEmitter(), _events(count)
    for handler in NOOPS:
        emitter.add_listener("event", handler)

    async def run() -> None:
        for event in events:
            emitter.emit("event", event)
            await emitter.wait_for_complete()

    return run


def _bubus(count: int) -> Contestant:
    import bubus

    class Switched(bubus.BaseEvent[None]):
        session_id: str = "s"
        from_agent: str = "a"
        to_agent: str = "b"

    bus, events = bubus.EventBus(), [Switched() for _ in range(count)]
    for handler in NOOPS:
        bus.on(Switched, handler)

    async def run() -> None:
        for event in events:
            await bus.dispatch(event)
        await bus.stop()

    return run


if __name__ == "__main__":
    for each in rows():
        print(each)
