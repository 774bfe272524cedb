"""Exports the spans: reads the store from a cursor of its own, folds, sends, and advances only when the backend has
taken them.

The store is the queue: while the backend is down nothing is read, so nothing piles up. After a crash, what was sent
    since the last checkpoint is sent again, byte for byte.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.store.base import DeadLetter
from telemetry.otlp import OtlpEncoder, encode_span
from telemetry.otlp_decode import read_spans
from telemetry.otlp_result import Outcome, Result
from telemetry.otlp_transport import Transport
from telemetry.span_fold import SpanFold

logger = logging.getLogger("agent_runtime.telemetry")

CHUNK = 1_000
TICK_SECONDS = 0.5
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
# An outage that answers 500 must not cost the spans; a span at which a backend breaks must not hold up the rest.
UNCERTAIN_TRIES = 10
FOREVER_NS = 2**62
EXPORT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True)
class ExportFigures:
    """What the outbox has done so far: counts, and a histogram of the seconds a request took (not cumulative)."""

    exported: int = 0
    refused: int = 0
    pending: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    seconds: list[int] = field(default_factory=lambda: [0] * (len(EXPORT_BUCKETS) + 1))
    seconds_sum: float = 0.0


class Outbox:
    """Follows the store with a span fold, and a transport for what comes out of it.

    Args:
        bus: whose feed and store are read.
        fold: makes the spans.
        transport: sends them.
        resource: attributes of this process, ``service.name`` among them.
        checkpoint_seconds: how often the fold's state is made durable, in seconds.
    """

    def __init__(
        self,
        bus: EventBus,
        fold: SpanFold,
        transport: Transport,
        resource: Mapping[str, Any],
        checkpoint_seconds: float = 2.0,
    ) -> None:
        self.fold = fold
        self.figures = ExportFigures()
        self.position = 0
        self.recorded_ns = 0
        self._bus = bus
        self._transport = transport
        self._encoder = OtlpEncoder(dict(resource), "agent_runtime.telemetry")
        self._checkpoint_seconds = checkpoint_seconds
        self._saved_at = 0.0
        self._saved_position = -1
        self._backlog: list[bytes] = []
        self._draining = False
        self._drained = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._complained_at = 0.0

    @property
    def lag_events(self) -> int:
        """How many committed events it has yet to fold."""
        return max(0, self._bus.store.last_position() - self.position)

    async def start(self) -> None:
        """Take up the work where the last checkpoint left it."""
        await asyncio.to_thread(self._restore)
        self._task = asyncio.get_running_loop().create_task(self._follow())

    def _restore(self) -> None:
        kept = self._bus.store.load_checkpoint(self.fold.name)
        if kept is None:
            return
        position, state = kept
        version, _, body = state.partition(b"\n")
        if version != self.fold.version.encode():
            # Spans are given out once: another definition applies to what comes from now on.
            logger.warning(
                "the definition of spans changed; turns that were under way may be exported again or in part"
            )
        try:
            self.fold.load(body)
        except (ValueError, KeyError, TypeError):
            logger.exception("the state of the spans can't be read: starting without it behind position %d", position)
        self.position = self._saved_position = position

    async def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._step()
            except Exception:
                # It observes; it must neither die nor take the process with it.
                logger.exception("span export failed behind position %d", self.position)
                await self._pause(1.0)

    async def _step(self) -> None:
        if not self._backlog:
            # Once it is to stop it reads no further, except where what is not read now is lost.
            idle = True if self._draining and self._bus.store.blocking else await self._fold()
            self._backlog = [encode_span(span) for span in self.fold.take()]
            self.figures.pending = len(self._backlog)
            if idle and not self._backlog:
                if self._draining:
                    self._drained.set()
                await self._bus.feed.wait(self.position, TICK_SECONDS)
        await self._deliver()
        if not self._backlog and time.monotonic() - self._saved_at > self._checkpoint_seconds:
            await self._checkpoint()
        await asyncio.sleep(0)

    async def _fold(self) -> bool:
        """Fold the next chunk; True if there was none, in which case what is due was settled."""
        events = await self._bus.feed.read(self.position, CHUNK)
        if events:
            self.fold.apply(events)
            self.position = events[-1].position
            self.recorded_ns = events[-1].recorded_ns
            return False
        position, now_ns = self._bus.store.watermark()
        if position > self.position:
            return False
        self.fold.settle(FOREVER_NS if self._draining else now_ns)
        return True

    async def _deliver(self) -> None:
        """Send until the backend has taken or refused every span, or the outbox is stopped."""
        backlog = self._backlog
        for batch in self._encoder.batches(backlog):
            if not await self._send(batch):
                return
            self._backlog = self._backlog[len(batch) :]
            self.figures.pending -= len(batch)

    async def _send(self, batch: Sequence[bytes]) -> bool:
        """Send until each of these spans is taken or refused; False if the outbox was stopped before."""
        body = self._encoder.request(batch)
        pause = FIRST_PAUSE
        doubts = 0
        while not self._stopping.is_set():
            began = time.perf_counter()
            result = await self._transport.send(body)
            self._note(time.perf_counter() - began, result)
            doubts += result.uncertain
            if result.outcome is Outcome.RETRY or (result.uncertain and doubts < UNCERTAIN_TRIES):
                wanted = pause if result.retry_after is None else result.retry_after
                await self._pause(min(max(wanted, FIRST_PAUSE), LONGEST_PAUSE))
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            if result.outcome is Outcome.ACCEPTED:
                taken = len(batch) - min(result.rejected_spans, len(batch))
                self.figures.exported += taken
                if taken < len(batch):
                    await self._refused(batch, result, len(batch) - taken)
            elif len(batch) == 1:
                await self._refused(batch, result, 1)
            else:
                # Something in it is not acceptable: halves, until it stands alone.
                middle = len(batch) // 2
                return await self._send(batch[:middle]) and await self._send(batch[middle:])
            return True
        return False

    def _note(self, seconds: float, result: Result) -> None:
        figures = self.figures
        figures.seconds[bisect_left(EXPORT_BUCKETS, seconds)] += 1
        figures.seconds_sum += seconds
        if result.outcome is Outcome.ACCEPTED:
            if self._complained_at:
                logger.info("the span backend answers again")
                self._complained_at = 0.0
            return
        reason = "misconfigured" if result.misconfigured else result.outcome.value
        figures.failures[reason] = figures.failures.get(reason, 0) + 1
        if result.outcome is Outcome.RETRY and time.monotonic() - self._complained_at > 60:
            self._complained_at = time.monotonic()
            logger.warning("spans wait in the store, the backend did not take them: %s", result.message)

    async def _refused(self, batch: Sequence[bytes], result: Result, count: int) -> None:
        """Dead-letter what the backend will never take. Of a partial success it does not say which, so the batch is
        named."""
        self.figures.refused += count
        spans = [record for record, _ in read_spans(self._encoder.request(batch))]
        first = spans[0]["attributes"].get("agent_runtime.event_id", "")
        which = "" if len(spans) == count else f"{count} of {len(spans)} spans, the backend does not say which: "
        payload = orjson.dumps(
            spans[0] if len(spans) == 1 else [span["span_id"] for span in spans], default=str
        ).decode()
        letter = DeadLetter("spans", "otlp", str(first), payload, f"{which}{result.message}", 1, time.time_ns())
        await asyncio.to_thread(self._bus.store.add_dead_letter, letter)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _checkpoint(self) -> None:
        self._saved_at = time.monotonic()
        if self.position == self._saved_position and not self.fold.changed:
            return
        position = self.position
        state = self.fold.version.encode() + b"\n" + self.fold.dump()
        self.fold.changed = False
        await asyncio.to_thread(self._bus.store.save_checkpoint, self.fold.name, position, state)
        self._saved_position = position

    async def stop(self, timeout: float = 2.0) -> None:
        """Deliver what has been folded, and stop: within ``timeout`` seconds and about one more for the connection.

        What the backend has not taken by then is exported after the next start. Over a store in memory there is no such
        start: there every turn is settled as it is, and delivered.
        """
        if self._task is None:
            await self._transport.close()
            return
        self._draining = True
        self._bus.feed.wake()
        if not self._complained_at:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._drained.wait()
        self._stopping.set()
        self._bus.feed.wake()
        await self._transport.close()
        done, _ = await asyncio.wait({self._task}, timeout=1.0)
        if not done:
            self._task.cancel()
        elif not self._backlog:
            await self._checkpoint()
