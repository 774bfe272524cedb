"""The SDK's own way for the spans of HTTP requests: a provider that the FastAPI instrumentation is given."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span

from telemetry.otlp_config import GRPC, OtlpConfig

# They speak with every attempt, every second or two, while a backend is away. The outbox talks to the same backend and
# says it once a minute, and metrics count it.
_TALKATIVE = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
)


class HttpTracing:
    """A tracer provider whose shutdown does not wait for a backend that is down.

    Args:
        environ: where ``OTEL_*`` variables are read from.
        resource: attributes of this process.

    Attributes:
        provider: for ``FastAPIInstrumentor.instrument_app``; None where spans go nowhere.
    """

    def __init__(self, environ: Mapping[str, str], resource: Mapping[str, object]) -> None:
        exporter = _exporter(environ)
        self.provider: TracerProvider | None = None
        if exporter is not None:
            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            # The process's end is ours to order; the SDK's own hook would wait half a minute for a dead backend.
            self.provider = TracerProvider(resource=Resource(dict(resource)), shutdown_on_exit=False)  # type: ignore[arg-type]
            self.provider.add_span_processor(BatchSpanProcessor(exporter))

    def stop(self, timeout: float) -> None:
        """Send what is left, if that takes no longer than ``timeout`` seconds."""
        if self.provider is not None:
            thread = threading.Thread(target=self.provider.shutdown, daemon=True)
            thread.start()
            thread.join(timeout)


def without_query(span: Span, scope: Mapping[str, Any]) -> None:
    """A hook for the instrumentation: what stands behind a URL's ``?`` may be a key, and is in no span."""
    for name in ("http.url", "url.full", "url.query", "http.target"):
        value = (getattr(span, "attributes", None) or {}).get(name)
        if isinstance(value, str):
            span.set_attribute(name, "" if name == "url.query" else value.partition("?")[0])


def _exporter(environ: Mapping[str, str]) -> SpanExporter | None:
    wanted = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if wanted != "otlp" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    config = OtlpConfig.from_env(environ)
    if config.protocol == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(timeout=config.timeout)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter(endpoint=config.endpoint, headers=dict(config.headers), timeout=config.timeout)
