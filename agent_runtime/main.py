"""``create_app``: the only place that wires. Everything else gets what it needs as arguments."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from starlette.types import ASGIApp, Receive, Scope, Send

from agent_runtime import __version__
from agent_runtime.api.agents import agents_router
from agent_runtime.api.answers import add_error_answers
from agent_runtime.api.approvals import approval_row, approvals_router
from agent_runtime.api.auth import Gate, Keys, RateLimit
from agent_runtime.api.classic import classic_router
from agent_runtime.api.events import events_router
from agent_runtime.api.health import health_router
from agent_runtime.api.ingest import Ingest
from agent_runtime.api.ingest_route import describe_ingest, ingest_route
from agent_runtime.api.messages import messages_router
from agent_runtime.api.metrics_route import metrics_router
from agent_runtime.api.sessions import sessions_router
from agent_runtime.events.content import content_capture
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.projection import ProjectionRunner
from agent_runtime.events.store import EventStore, open_store
from agent_runtime.events.subscribers.audit_logger import AuditLogger
from agent_runtime.events.subscribers.metrics_collector import MetricsCollector
from agent_runtime.events.subscribers.session_metrics_collector import SessionMetricsCollector
from agent_runtime.events.system_events import SystemShutdownEvent, SystemStartupEvent
from agent_runtime.redaction import Redactor
from agent_runtime.runtime import Runtime
from agent_runtime.settings import Settings
from telemetry import Telemetry, attach
from telemetry.runtime import resource_attributes
from telemetry.settings import TelemetrySettings
from telemetry.tracing import HttpTracing, without_query

logger = logging.getLogger("agent_runtime")

# Of the 5 s that a stop may take, uvicorn keeps up to GRACE_SECONDS for open requests; what is left is for the folds.
STOP_SECONDS = 4.0
GRACE_SECONDS = 2
START_SECONDS = 2.0
NOT_TRACED = "/metrics,/health,/ready,/events.*"
SOURCE = "agent-runtime"


class Service:
    """The parts of a running service, and how they start and stop.

    Attributes:
        bus, telemetry, ingest: as they were wired.
        stopping: set first of all when the service stops; streams end then.
    """

    def __init__(self, settings: Settings) -> None:
        self.store: EventStore = open_store(settings.db_url, settings.sqlite_synchronous)
        self.bus = EventBus(
            self.store,
            sanitise=Redactor(settings.capture_content),
            writer_queue_size=settings.writer_queue_size,
            handler_timeout=settings.handler_timeout_seconds,
        )
        durable = self.store if self.store.blocking else None
        self.metrics = MetricsCollector()
        self.audit = AuditLogger(durable)
        self.sessions = SessionMetricsCollector(durable)
        self.telemetry: Telemetry = attach(self.bus, settings=telemetry_settings(settings))
        self.ingest = Ingest(self.bus, self.telemetry.door, settings.max_body_bytes, settings.max_batch_events)
        self.stopping = asyncio.Event()
        self._runners = [
            ProjectionRunner(self.bus, projection, settings.checkpoint_seconds)
            for projection in (self.metrics, self.audit, self.sessions)
        ]
        for runner in self._runners:
            self.telemetry.follow(runner.projection.name, runner)
        self.runtime = Runtime(settings, self.bus) if settings.mode == "runtime" else None
        # In sidecar mode nobody's turn begins with one of our requests, so their spans would be noise.
        self.tracing = HttpTracing(os.environ if self.runtime else {"OTEL_SDK_DISABLED": "true"}, resource_attributes())
        self._starting: asyncio.Task[None] | None = None
        self._ending_turns: asyncio.Task[None] | None = None
        self._stop_by = 0.0

    def ready(self) -> bool:
        """Whether every fold has caught up with the store, and the service is not stopping."""
        starting = self._starting
        caught_up = starting is not None and starting.done() and not starting.cancelled() and not starting.exception()
        return caught_up and self.telemetry.ready and not self.stopping.is_set()

    async def start(self) -> None:
        """Let the folds catch up. A long way to go is gone in the background, while events are taken already."""
        # Stored before any fold runs: it tells them that the silence before it was nobody listening.
        await self.bus.publish_many([SystemStartupEvent(version=__version__, source=SOURCE)])
        self._starting = asyncio.create_task(self._catch_up())
        await asyncio.wait((self._starting,), timeout=START_SECONDS)
        if self._starting.done():
            self._starting.result()
        else:
            self._starting.add_done_callback(_log_failure)
        if self.runtime is not None:
            await self.runtime.start()

    async def _catch_up(self) -> None:
        for runner in self._runners:
            await runner.start()
        await self.telemetry.start()
        # What exists by now exists for good; the collector need not look at it again with every batch.
        gc.collect()
        gc.freeze()

    def begin_to_stop(self) -> None:
        """End the streams, and let the clock of the shutdown run. Calling it again changes nothing."""
        if not self.stopping.is_set():
            self._stop_by = time.monotonic() + STOP_SECONDS
            self.stopping.set()
            if self.runtime is not None:
                self._ending_turns = asyncio.get_running_loop().create_task(self.runtime.stop_turns())

    async def stop(self) -> None:
        """Store and fold what was accepted, make the folds durable, and let go; within the time of the shutdown.

        What is not done by then is done by the next start: the store has every accepted event.
        """
        self.begin_to_stop()
        if self._ending_turns is not None:
            await asyncio.wait((self._ending_turns,), timeout=self._time_left(keep=2.0))
        await self.bus.publish(SystemShutdownEvent(version=__version__, source=SOURCE))
        await self.bus.drain(self._time_left(keep=1.5))
        if self.runtime is not None:
            await self._within(self.runtime.stop(), keep=1.0)
            self.tracing.stop(0.3)
        await self._within(self._end_folds(), keep=0.3)
        await self.bus.close(self._time_left())
        self.store.close()
        gc.unfreeze()

    async def _end_folds(self) -> None:
        assert self._starting is not None
        if not self._starting.done():
            self._starting.cancel()
            return
        if self._starting.exception() is not None:
            return
        ends = (self.telemetry.stop(self._time_left(keep=0.5)), *(runner.stop() for runner in self._runners))
        for error in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(error, Exception):
                logger.error(
                    "a fold did not stop in order; the next start folds again what is not durable", exc_info=error
                )

    def _time_left(self, keep: float = 0.0) -> float:
        return max(0.1, self._stop_by - time.monotonic() - keep)

    async def _within(self, work: Awaitable[None], keep: float) -> None:
        try:
            await asyncio.wait_for(work, self._time_left(keep))
        except TimeoutError:
            logger.warning("the service did not stop in order in time; the next start takes up what is not durable")


def _log_failure(starting: asyncio.Task[None]) -> None:
    if not starting.cancelled() and (error := starting.exception()) is not None:
        logger.critical("the folds could not catch up; the service takes events, but is not ready", exc_info=error)


class Application(FastAPI):
    """FastAPI with the door beside it: what FastAPI puts around a route costs as much as taking an event in."""

    door: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"] == "/events" and scope["method"] == "POST":
            await self.door(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application; its lifespan starts and stops everything.

    Raises:
        StoreError: the event store can't be opened. ValueError: ``OTEL_*`` or the price table can't be used.
    """
    content_capture.enabled = settings.capture_content
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = Application(
        title="agent-runtime",
        version=__version__,
        description="Events of agents in; metrics, traces and audit out.",
        lifespan=lifespan,
        redirect_slashes=False,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.service = service
    keys = Keys(settings.keys)
    if not keys.exist:
        logger.warning("no keys are configured: whoever can reach %s may read and write everything", settings.host)
    limit = RateLimit(settings.rate_limit_per_second) if settings.rate_limit_per_second else None
    app.door = Gate(service.ingest, keys, limit)
    app.router.routes.append(ingest_route(service.ingest))
    app.include_router(classic_router(service.bus, service.metrics, service.audit, service.sessions))
    app.include_router(events_router(service.bus, service.stopping))
    app.include_router(metrics_router(service.telemetry.render))
    app.include_router(health_router(service.ready))
    if service.runtime is not None:
        _add_runtime(app, service.runtime)
    describe_ingest(app)
    add_error_answers(app)
    app.add_middleware(Gate, keys=keys, limit=limit)
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=service.tracing.provider,
        server_request_hook=without_query,
        excluded_urls=NOT_TRACED,
        exclude_spans=["receive", "send"],
    )
    return app


def _add_runtime(app: FastAPI, runtime: Runtime) -> None:
    """The routes that only a service with agents has."""

    async def pending(session_id: str) -> list[dict[str, object]]:
        return [approval_row(approval) for approval in await runtime.hitl.pending(session_id)]

    app.include_router(sessions_router(runtime.sessions, runtime.create_session, pending))
    app.include_router(agents_router(runtime.contexts, runtime.router.agents, runtime.orchestrator.pass_on))
    app.include_router(messages_router(runtime.orchestrator))
    app.include_router(approvals_router(runtime.hitl))


def telemetry_settings(settings: Settings) -> TelemetrySettings:
    """What telemetry is told of the settings."""
    return TelemetrySettings(
        settle_seconds=settings.settle_seconds,
        turn_deadline_seconds=settings.turn_deadline_seconds,
        approval_deadline_seconds=settings.approval_deadline_seconds,
        late_seconds=settings.late_seconds,
        label_budget=settings.label_budget,
        prices_file=settings.prices_file,
        checkpoint_seconds=settings.checkpoint_seconds,
        capture_content=settings.capture_content,
    )
