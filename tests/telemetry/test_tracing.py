"""The way of the HTTP requests' own spans."""

import logging

import pytest

from telemetry.tracing import HttpTracing
from tests.otlp_fixture import free_ports


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_dead_backend_is_not_talked_about(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    """The SDK's exporter would log a line every second; the outbox says it for both, and a stop does not wait."""
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    tracing = HttpTracing(
        {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, {"service.name": "test"}
    )
    assert tracing.provider is not None
    with caplog.at_level(logging.INFO):
        tracing.provider.get_tracer("test").start_span("request").end()
        tracing.stop(1.5)
    assert [] == [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("name", ["console", "none"])
def test_without_a_backend_there_is_no_provider(name: str) -> None:
    """Then FastAPI's instrumentation makes no spans at all."""
    assert HttpTracing({"OTEL_TRACES_EXPORTER": name}, {}).provider is None
    assert HttpTracing({"OTEL_SDK_DISABLED": "true"}, {}).provider is None
