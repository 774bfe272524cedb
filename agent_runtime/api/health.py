"""``/health``: the process answers. ``/ready``: what it shows is up to date. Neither needs a key or tells more."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from starlette.responses import Response

from agent_runtime import __version__
from agent_runtime.api.answers import Json


def health_router(ready: Callable[[], bool]) -> APIRouter:
    """The routes.

    Args:
        ready: whether every fold has caught up with the store, and the service is not stopping.
    """
    router = APIRouter(tags=["health"])

    @router.get("/health")
    async def health() -> Response:
        """Whether the process lives."""
        return Json({"status": "healthy", "service": "agent-runtime", "version": __version__})

    @router.get("/ready")
    async def readiness() -> Response:
        """200 when it can be sent events and be read; 503 while it catches up with its store, or stops."""
        return Json({"status": "ready"}) if ready() else Json({"status": "not ready"}, 503, {"Retry-After": "1"})

    return router
