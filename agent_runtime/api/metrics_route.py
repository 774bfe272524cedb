"""``GET /metrics``: a plain route, rendered on a thread, so that a scrape holds up nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import APIRouter, Request
from starlette.responses import Response


def metrics_router(render: Callable[[str], tuple[bytes, str]]) -> APIRouter:
    """The route.

    Args:
        render: gives body and content type for an ``Accept`` header; called on a thread.
    """
    router = APIRouter(tags=["metrics"])

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def get_metrics(request: Request) -> Response:
        """All metrics, in the Prometheus text format or OpenMetrics, as the `Accept` header asks."""
        body, content_type = await asyncio.to_thread(render, request.headers.get("accept", ""))
        # Given as a header: as a media type Starlette would add a second charset.
        return Response(body, headers={"Content-Type": content_type})

    return router
