"""The telemetry of one bus, wired: folds, outbox, exposition."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from agent_runtime.events.content import content_capture
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.projection import ProjectionRunner
from telemetry.exposition import FamiliesCollector, Renderer
from telemetry.families import Family
from telemetry.metrics import METRICS
from telemetry.metrics_fold import MetricsFold
from telemetry.otlp_transport import Transport, open_transport
from telemetry.outbox import Outbox
from telemetry.pipeline_metrics import PIPELINE_METRICS, DoorFigures, Follower, pipeline_families
from telemetry.prices import Prices, load_price_table
from telemetry.settings import TelemetrySettings
from telemetry.span_fold import SpanFold
from telemetry.turns import NS, Deadlines, SharedFacts

logger = logging.getLogger("agent_runtime.telemetry")

SERVICE_NAME = "agent-runtime"


class Telemetry:
    """Metrics and spans of everything that is published on a bus. ``async with`` starts and stops it.

    Args:
        bus: what is observed; it knows nothing of this.
        settings: see ``TelemetrySettings``.
        registry: a ``prometheus_client`` registry that is to expose the series too, beside ``render``.
        environ: where ``OTEL_*`` variables are read from.

    Raises:
        OtlpConfigError, InvalidPriceTable: a variable or the price table is wrong; the message names it.
    """

    def __init__(
        self,
        bus: EventBus,
        *,
        settings: TelemetrySettings | None = None,
        registry: CollectorRegistry | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        settings = settings or TelemetrySettings()
        environ = os.environ if environ is None else environ
        deadlines = Deadlines(
            grace=round(settings.settle_seconds * NS),
            late=round(settings.late_seconds * NS),
            turn=round(settings.turn_deadline_seconds * NS),
            approval=round(settings.approval_deadline_seconds * NS),
        )
        prices = Prices(None if settings.prices_file is None else load_price_table(settings.prices_file))
        content_capture.enabled = settings.capture_content
        self.door = DoorFigures()
        self._transport: Transport | None = open_transport(environ)
        shared = None if self._transport is None else SharedFacts()
        self.metrics = MetricsFold(bus.store, deadlines, settings.label_budget, prices, shared)
        self._bus = bus
        self._runner = ProjectionRunner(bus, self.metrics, settings.checkpoint_seconds)
        self._outbox: Outbox | None = None
        if self._transport is not None:
            spans = SpanFold(bus.store, deadlines, shared)
            self._outbox = Outbox(bus, spans, self._transport, resource_attributes())
        self._followers: dict[str, Follower] = {"metrics": self._runner}
        if self._outbox is not None:
            self._followers["spans"] = self._outbox
        self._renderer = Renderer()
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)
        self._started = False
        if registry is not None:
            registry.register(FamiliesCollector(self.families, (*METRICS, *PIPELINE_METRICS)))

    def follow(self, name: str, follower: Follower) -> None:
        """Expose the lag of another projection of the same store."""
        self._followers[name] = follower

    async def start(self) -> None:
        """Continue from the checkpoints: on return the metrics stand where the store does. Starting twice is fine."""
        if self._started:
            return
        self._started = True
        await self._runner.start()
        if self._outbox is not None:
            await self._outbox.start()

    async def stop(self, timeout: float = 2.0) -> None:
        """Make the state durable and stop, about within ``timeout`` seconds also while the span backend hangs."""
        if not self._started:
            return
        self._started = False
        try:
            if self._outbox is not None:
                await self._outbox.stop(timeout)
        finally:
            await self._runner.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def families(self) -> list[Family]:
        """A snapshot of all series. Reads the store, so call it off the event loop."""
        export = None if self._outbox is None else self._outbox.figures
        return self.metrics.families() + pipeline_families(self._bus, self._followers, export, self.door)

    def render(self, accept: str | None) -> tuple[bytes, str]:
        """The exposition that a scraper with this ``Accept`` header wants, and its content type. Thread-safe."""
        return self._renderer.render_all(self.families(), (self._process,), accept)

    @property
    def ready(self) -> bool:
        """Whether it runs and its metrics have caught up with the store, but for what came just now."""
        return self._started and self._runner.lag_events < 10_000

    def lags(self) -> dict[str, int]:
        """How many committed events each projection has yet to fold."""
        return {name: follower.lag_events for name, follower in self._followers.items()}


def resource_attributes() -> dict[str, object]:
    """Attributes of this process, from ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES``; the service is
    agent-runtime by default."""
    attributes = dict(Resource.create().attributes)
    if str(attributes.get("service.name", "")).startswith("unknown_service"):
        attributes["service.name"] = SERVICE_NAME
    return dict(attributes)


def attach(
    bus: EventBus,
    *,
    registry: CollectorRegistry | None = None,
    settings: TelemetrySettings | None = None,
    environ: Mapping[str, str] | None = None,
) -> Telemetry:
    """Attach telemetry to ``bus``; see ``Telemetry``. Nothing runs until it is started.

    The three lines of an embedding program::

        bus = EventBus(SqliteStore("events.db"))        # or EventBus() for events in memory
        async with attach(bus, registry=REGISTRY):      # series in your registry, spans to OTEL_EXPORTER_OTLP_ENDPOINT
            await bus.publish(AgentSwitchedEvent(...))
    """
    return Telemetry(bus, registry=registry, settings=settings, environ=environ)
