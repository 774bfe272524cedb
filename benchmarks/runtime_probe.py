"""The service in runtime mode, as it is, with a window: ``python -m benchmarks.runtime_probe PORT FOLDER DELAY SINK``.

``GET /probe`` tells how many tasks run, by name; the HTTP spans so far, and the most that one trace had; and for each
turn the seconds that the scripted model was told to wait in each of its calls.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

import agent_runtime.runtime
from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.llm import Answer, ScriptedClient, TextDelta
from agent_runtime.llm.client import Message
from agent_runtime.main import create_app
from agent_runtime.server import Server
from agent_runtime.settings import load_settings

delays: defaultdict[str, list[float]] = defaultdict(list)
delay_seconds = 0.0


class NotedClient(ScriptedClient):
    """The scripted model; notes how long it was told to wait, piece by piece."""

    def __init__(self) -> None:
        super().__init__(chunk_delay_seconds=delay_seconds)

    async def stream(
        self, *, model: str, messages: Sequence[Message], tools: Sequence[Message]
    ) -> AsyncGenerator[TextDelta | Answer, None]:
        """As it is."""
        waits = delays[EventCorrelation.get_correlation_id() or ""]
        waits.append(0.0)
        call = len(waits) - 1
        async for item in super().stream(model=model, messages=messages, tools=tools):
            if isinstance(item, TextDelta):
                waits[call] += delay_seconds
            yield item


class HttpSpans(SpanProcessor):
    """Counts the spans of each trace."""

    def __init__(self) -> None:
        self.by_trace: Counter[int] = Counter()

    def on_end(self, span: ReadableSpan) -> None:
        """Count."""
        assert span.context is not None
        self.by_trace[span.context.trace_id] += 1


def main(port: int, folder: Path, sink: int) -> None:
    """Serve until a signal ends it."""
    # The only way in: which model plays without an endpoint is no setting.
    setattr(agent_runtime.runtime, "ScriptedClient", NotedClient)  # noqa: B010
    settings = load_settings(
        port=port, db_url=f"sqlite:///{folder}/events.db", workspace=folder / "workspace", log_level="WARNING"
    )
    app = create_app(settings)
    spans = HttpSpans()
    provider = app.state.service.tracing.provider
    assert provider is not None, f"the spans are to go to port {sink}"
    provider.add_span_processor(spans)

    @app.get("/probe")
    async def probe() -> dict[str, Any]:
        names = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())
        return {
            "tasks": names,
            "spans": spans.by_trace.total(),
            "most_spans": max(spans.by_trace.values(), default=0),
            "delays": delays,
        }

    Server(app, settings.host, settings.port).run()


if __name__ == "__main__":
    delay_seconds = float(sys.argv[3])
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4]))
