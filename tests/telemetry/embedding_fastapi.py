"""Somebody's FastAPI program, with telemetry attached in three lines. Arguments: port, and a database or nothing."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, make_asgi_app

from agent_runtime.events import EventBus
from agent_runtime.events.llm_events import LLMRequestCompletedEvent, LLMRequestStartedEvent
from agent_runtime.events.store.sqlite import SqliteStore
from telemetry import TelemetrySettings, attach

REGISTRY = CollectorRegistry()
ORDERS = Counter("shop_orders", "Orders taken.", registry=REGISTRY)
BUS = EventBus(SqliteStore(sys.argv[2])) if len(sys.argv) > 2 else EventBus()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Telemetry runs as long as the program does."""
    async with attach(BUS, registry=REGISTRY, settings=TelemetrySettings(settle_seconds=0.2, late_seconds=0.2)):
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/metrics", make_asgi_app(REGISTRY))


@app.post("/orders/{turn}")
async def order(turn: str) -> dict[str, str]:
    """Takes an order, with a model's help."""
    ORDERS.inc()
    call = LLMRequestStartedEvent(model="gpt-4o", provider="openai", correlation_id=turn, session_id="s-1")
    await BUS.publish(call)
    await BUS.publish(
        LLMRequestCompletedEvent(
            model="gpt-4o",
            duration_ms=120.0,
            prompt_tokens=1000,
            correlation_id=turn,
            session_id="s-1",
            causation_id=call.event_id,
        ),
        wait_for_handlers=True,
    )
    return {"turn": turn}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
