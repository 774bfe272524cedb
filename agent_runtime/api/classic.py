"""The views that users already know: JSON metrics, audit log, statistics, session totals (CONTRACT 2)."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from agent_runtime.api.answers import Json
from agent_runtime.events.base_event import format_time_us
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.subscribers.audit_logger import AuditLogger
from agent_runtime.events.subscribers.metrics_collector import MetricsCollector
from agent_runtime.events.subscribers.session_metrics_collector import SessionMetricsCollector


def classic_router(
    bus: EventBus, metrics: MetricsCollector, audit: AuditLogger, sessions: SessionMetricsCollector
) -> APIRouter:
    """The routes. What may read the store runs on a thread."""
    router = APIRouter(tags=["classic"])

    @router.get("/events/metrics")
    async def get_metrics() -> Response:
        """All counts since the first event, and means and rates computed from them."""
        now = format_time_us(time.time_ns() // 1_000)
        return Json({"metrics": metrics.get_metrics(), "computed": computed(metrics), "timestamp": now})

    @router.get("/events/audit-log")
    async def get_audit_log(
        session_id: str | None = None,
        event_type: str | None = None,
        limit: Annotated[int, Query(ge=0, le=10_000)] = 100,
    ) -> Response:
        """The newest `limit` audit rows that match, oldest first."""
        rows = await asyncio.to_thread(audit.get_audit_log, session_id, event_type, limit)
        filters = {"session_id": session_id, "event_type": event_type, "limit": limit}
        return Json({"audit_log": rows, "count": len(rows), "filters": filters})

    @router.get("/events/stats")
    async def get_stats() -> Response:
        """What the bus has done since the process started."""
        stats = await asyncio.to_thread(bus.get_stats)
        handled = stats.successful_handlers + stats.failed_handlers
        moment = stats.last_event_time
        last = None if moment is None else moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
        return Json(
            {
                "total_published": stats.total_published,
                "successful_handlers": stats.successful_handlers,
                "failed_handlers": stats.failed_handlers,
                "last_event_time": last,
                "success_rate": stats.successful_handlers / handled if handled else 1.0,
            }
        )

    @router.get("/events/metrics/sessions")
    async def get_sessions() -> Response:
        """The model calls of every session that is held."""
        rows = await asyncio.to_thread(sessions.get_all_session_metrics)
        return Json({"sessions": rows, "count": len(rows)})

    @router.get("/events/metrics/session/{session_id:path}")
    async def get_session(session_id: str) -> Response:
        """The model calls of one session."""
        totals = await asyncio.to_thread(sessions.get_session_metrics, session_id)
        if totals is None:
            return Json({"error": f"No metrics found for session {session_id}"}, 404)
        return Json(totals)

    return router


def computed(metrics: MetricsCollector) -> dict[str, Any]:
    """``<agent>_avg_duration_ms`` to 2 decimals for each agent, ``<tool>_success_rate`` to 3 for each tool."""
    counts = metrics.get_metrics()
    return {
        **{
            f"{agent}_avg_duration_ms": round(metrics.get_agent_avg_duration(agent), 2)
            for agent in counts["agent_processing"]
        },
        **{f"{tool}_success_rate": round(metrics.get_tool_success_rate(tool), 3) for tool in counts["tool_executions"]},
    }
